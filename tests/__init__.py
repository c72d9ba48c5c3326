"""Tests of midstream, one file for each module, and scripted scenarios."""
