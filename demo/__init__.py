"""The embedded demo: a generator of image and mask pairs, and the picture of what a network made of them."""
