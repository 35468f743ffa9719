"""Sentinel-1 GRD products on the patch grid: from raw counts in radar geometry to terrain-corrected sigma0.

``annotation`` reads what a product says of itself, ``calibration`` turns counts into sigma0, ``elevation`` gives
the ground's height, ``geometry`` says where a point of the ground lies in the product, ``reader`` brings them
together.
"""
