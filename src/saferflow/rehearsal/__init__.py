"""A profile's stages, carried out for a few steps in a folder of their own before hours are spent on the whole run."""
