"""Sound that is listened to: files, devices, and how loud their bands are."""
