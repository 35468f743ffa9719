"""Sentinel-1 GRD products on the patch grid: from raw counts in radar geometry to sigma0 or flattened gamma0.

``annotation`` reads what a product says of itself, ``calibration`` turns counts into sigma0 or beta0, ``elevation``
gives the ground's height, ``geometry`` says where a point of the ground lies in the product, ``flattening`` how much
ground a pixel of the product saw, ``reader`` brings them together.
"""
