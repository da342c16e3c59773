"""Profiles of transactions: settings by SET LOCAL for one block of an application, judged before it runs."""
