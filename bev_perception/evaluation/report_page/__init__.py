"""The report of a drive, or of many: one HTML file that needs nothing else, neither files beside it nor a network.

`data` is what it shows, `page` puts the sections together: `scores`, `curves`, `losses`, `drives`.
"""
