"""A dataset in the forms that training programs open: LMDB, and the official folder tree."""
