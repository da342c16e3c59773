"""One module an area: what it reads, and its judgement."""
