"""The demo: a small invented world to try everything on, offline, and the page that shows what came out of it.

``landscape`` says what lies where on the invented ground, ``ground`` what that looks like, ``world`` photographs it
as Sentinel-2 and Sentinel-1 scenes with STAC items and draws its CORINE-like polygons, ``pictures`` and ``report``
turn any dataset into one self-contained HTML page, ``run`` does it all.
"""
