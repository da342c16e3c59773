"""The tables and the chart of docs/estimates.md: nothing is measured, all of it is computed."""
