"""One plain function per use case, returning a Report: the composition root."""
