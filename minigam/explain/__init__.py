"""One HTML page that shows what a trained GAM does with every word of a text."""
