"""The import paths of ``yellowdog-ray``, so that programs and YAMLs written for it run unchanged. No logic here."""
