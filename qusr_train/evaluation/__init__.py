"""Figures of image quality, and tables of them."""
