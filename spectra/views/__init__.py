"""Spectra reports for people: tables and figures."""
