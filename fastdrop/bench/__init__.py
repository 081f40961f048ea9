"""The benchmark: ``python -m fastdrop.bench``, see ``--help``. Nothing else imports it."""
