"""The one exception for what a user can mend."""

from __future__ import annotations


class EdgewfError(Exception):
    """Bad input, a missing part or a damaged file, worded for the person at the keyboard.

    The message names the file and the value at fault, then the fix. The command line prints it as
    one line on stderr and exits with status 2, without a traceback.
    """
