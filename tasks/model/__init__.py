"""The domain model: visit, detector, exposure, PSF, WCS, catalogues."""
