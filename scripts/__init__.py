"""Commands for those who work on rnnscan; what each is for stands at its top."""
