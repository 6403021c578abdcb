"""Files that an analysis keeps beside its report."""
