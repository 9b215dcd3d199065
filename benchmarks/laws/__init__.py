"""What ought to hold of each part, tried on a peer and on MixKABRN."""
