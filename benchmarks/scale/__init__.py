"""How cost grows with data, devices and processes; docs/scale.md, and the tables of docs/performance.md."""
