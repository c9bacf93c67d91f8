"""The embedded demo: generated pairs of images and masks, and a figure of predicted masks."""
