"""MixKABRN beside other systems."""
