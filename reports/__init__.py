# SPDX-License-Identifier: MIT
"""Reads run directories, compares their arms and writes the result as HTML, Markdown or JSON. It reads files only."""
