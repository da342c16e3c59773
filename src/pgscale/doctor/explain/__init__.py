"""`pgscale explain`: what the server plans or did for one query, read in words."""
