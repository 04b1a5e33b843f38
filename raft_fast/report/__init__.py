"""What every report shares: one page, its plots, and how numbers are written."""
