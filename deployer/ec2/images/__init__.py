"""Images at EC2: boot disks, driver checks, upload and registration as AMIs."""
