"""The rules, one module an area; each looks at what a statement did, never at how it is written alone."""
