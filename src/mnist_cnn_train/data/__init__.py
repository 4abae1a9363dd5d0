"""The images in memory: data sets, the IDX format, the split."""
