#!/bin/sh
# numba takes compiled code only from a folder that it may write to; Lambda lets a function write to /tmp only.
mkdir -p "$NUMBA_CACHE_DIR" && cp -R /opt/numba/. "$NUMBA_CACHE_DIR"
exec /lambda-entrypoint.sh "$@"
