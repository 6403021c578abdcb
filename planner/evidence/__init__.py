"""Everything known about every site, joined by name, and how far noise lets it be believed."""
