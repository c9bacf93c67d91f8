"""Training data: pairs of image and mask, their cache, augmentations, and loader processes."""
