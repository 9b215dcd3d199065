"""Looking inside a trained language model: splines, routing, retention horizons, codes. Arrays in, arrays out."""
