"""A local web page to draw digits on."""
