"""One plain function per use case, returning a Report: the composition root."""

# Where configuration is read from, in the working directory.
FILE_NAME = "pgscale.toml"
