"""The embedded corpus: small drawn scenes with questions whose risk lies in the text, the image, or both."""
