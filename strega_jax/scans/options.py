"""What commands that read scans let users choose, and how their help texts say so."""

AUTO, GIVEN = "auto", "given"
BRAIN_HELP = (
    "Where the brain is: auto (a brain mask beside the scan, else the image if it is brain-extracted, else brain "
    "extraction with what is installed), given (the image is brain-extracted; do not check), deepbet or hd-bet (whole "
    "heads; extract the brain), or the PATH of a brain mask, or of a folder of brain masks with the scans' file names."
)
CONTRAST_HELP = (
    "What to read: contrasts, e.g. T1ce,T2w (default: all; scans of unknown contrast count as the one that is named), "
    "and SCAN=T1ce for a scan whose contrast is known better, SCAN being its name, or a DICOM series' number or "
    "description."
)
