"""What the schema compiler makes of ../tensor.fbs. Written by `python -m tensorwire.codec.generate`, never by hand."""
