"""What an MR image shows, by its name and its timing: names as scanners and sites write them, usual protocols."""

import pytest

from strega_jax.scans import dicom_contrasts
from strega_jax.scans.dicom_contrasts import contrast_by_timing, decide_contrast
from strega_jax.scans.dicom_frames import Acquisition
from strega_jax.scans.dicom_kinds import why_not_anatomical

# Siemens, GE, Philips and Canon scanners; English, German, Spanish, Portuguese and Italian sites.
NAMES = {
    "T1w": """t1_mprage_sag|t1_mprage_sag_p2_iso|t1_mpr_ns_sag_p2_iso|Sag T1 FLAIR|Ax T1,Flair|T1W_TSE|sT1W_3D_TFE
        |SAG T1 FSE|Ax 3D BRAVO|SAG FSPGR 3D|Accelerated Sag IR-FSPGR|t1_se_tra|t1_tirm_tra_dark-fluid|AxT1|T1 REPEAT2
        |sT1W_3D_TFE_PRE_GD|T1 pre contrast|AX T1 W/O|T1 without contrast|T1 ohne KM|t1_mprage_tra vor KM|3DT1
        |CS sag T1W_3D_TFE nativ|T1 sin contraste|T1 sem contraste|MP2RAGE UNI_Images|T1 post-op|AX T1 NON-CONTRAST
        |t1_spc_sag|T1 posterior fossa|MPRAGE_GRAPPA2|Sagittal_3D_Accelerated_MPRAGE""",
    "T1ce": """Ax T1 FSE +C|AX T1+C|eT1W_3D_TFE POST|T1 SE GD|t1_mprage_tra_KM|COR T1 POST GAD|SAG T1 POST|T1c|T1 C+
        |AX T1 SE C+|+C Ax T1 BRAVO|Ax T1,Flair +C|T1 CON GADOLINIO|AX T1 POS|t1_mprage_sag nach KM|T1 GD post-op
        |T1 3D MPRAGE postcontrast|AX T1 CE|t1_se_tra_fs_kontrast|Ax T1 FSE C|T1W_3D_TFE_GD|T1 MdC|AX T1 POST: Processed
        |mp rage fs + c""",
    "T2w": """t2_tse_tra|SAG 3D CUBE T2|AX T2 FRFSE|FL:C/OAx T2 PROPELLER|T2W_TSE|eT2W_TSE_DRIVE_HR|t2_spc_sag_p2_iso
        |t2_blade_tra|sag t2 haste|AX T2 POST|*AX FSE T2|Ax T2 Fse thin ac-pc""",
    "FLAIR": """AX T2 FLAIR|t2_tirm_tra_dark-fluid|FLAIR_longTR|eFLAIR_longTR_SPIR|Ax Flair irFSE|t2_spc_da-fl_sag
        |OAx T2 FLAIR+C|3D_Brain_VIEW_FLAIR_SAG|Sag CUBE T2FLAIR|AX FLAIR POST|T2W_FLAIR|3D T2 FLAIR_ti1650""",
    "PD": "PD TSE|FSE PD AXIAL OBL|AX PD|sPDW_TSE|Axial Proton Density|pd_tse_tra",
    "": "SAG|Coronal|AX DUAL_TSE|Axial PD-T2 TSE|AX T2 DE|MR|STIR|mp2rage_INV1|3D FIESTA|sag DIR|2D GRE-MT|",
}
OTHERS = {
    "localiser": "localizer|AAHead_Scout|3-Plane Localizer|3 PLANE LOC|MIDLINE SAG LOC|SURVEY|T/S/C RF FAST PILOT",
    "calibration": "ASSET Calibration|Cal Head 24|SENSE_Ref",
    "diffusion": """ep2d_diff_3scan_trace_p2|ep2d_diff_3scan_trace_p2_ADC|Ax DWI 1000b|OAx eDWI b=10|DTI_gated_FA|IsoADC
        |Apparent Diffusion Coefficient (mm2/s)|dADC|DIFUSION|RESOLVE_4scan_trace|Ax DTI 13 Directions""",
    "perfusion": "AX 3D ASL|OAx PWI 50 Phase|relCBF|ep2d_perf|TTP|t1_twist_dynamic",
    "functional": "ep2d_bold_rest|rsfMRI_LR",
    "susceptibility": "SWI_Images|Mag_Images|Pha_Images|AX SWAN|FILT_PHA: OAx SWI|VEN_BOLD",
    "projection": "mIP_Images(SW)|<MIP Range[1]>|MPR Ob_Ax_I -> S_Min IP_sp:5.0_th:5.0|ANGIO Projected from   C",
    "angiography": "TOF_3D_multi-slab|3D TOF MRA|COW",
    "picture": "PhoenixZIPReport|SCREENSAVE|Screen Save|Processed Images",
    "spectroscopy": "csi_se_30_fast|2D CSI-PROBE 35",
    "field map": "Field_mapping|GRE B0|B0rf Map|gre_field_mapping",
    "T2*": "t2_fl2d_tra_hemo|AX T2*|3-Pl T2* FGRE|AXIAL_T2_STAR|AX T2 GRE|eT2W_FFE",
    "map of a quantity": "mp2rage_T1_Images|T2 Map",
    "subtraction": "T1W SUB",
    "not a head": "Sag T2 FSE L-SPINE|AX T1 CERVICAL",
}
# Codes, TR, TE, TI in ms and flip angle of usual protocols at 1.5 and 3 T.
PROTOCOLS = [
    ("T1w", "SE", 500, 10, None, 90), ("T1w", "SE", 650, 14, None, 90), ("T1w", "SE", 800, 9, None, 70),
    ("T1w", "SE IR", 2000, 20, 750, 90), ("T1w", "SE IR", 2500, 10, 860, 90), ("T1w", "SE IR", 2200, 9, 900, 150),
    ("T1w", "GR IR", 2300, 2.98, 900, 9), ("T1w", "GR IR", 1900, 2.5, 900, 9), ("T1w", "GR", 8.2, 3.2, 450, 12),
    ("T1w", "GR", 8.1, 3.7, None, 8), ("T1w", "GR", 250, 2.5, None, 70), ("T1w", "GR", 25, 5, None, 30),
    ("PD", "SE", 2300, 22, None, 90), ("PD", "SE", 3000, 15, None, 90), ("PD", "SE", 2800, 30, None, 90),
    ("T2w", "SE", 3000, 80, None, 90), ("T2w", "SE", 6000, 100, None, 150), ("T2w", "SE", 3200, 408, None, 120),
    ("T2w", "SE", 2500, 90, None, 90),
    ("FLAIR", "SE IR", 9000, 120, 2500, 150), ("FLAIR", "SE IR", 8000, 90, 2370, 90),
    ("FLAIR", "SE IR", 5000, 388, 1800, 120), ("FLAIR", "SE IR", 11000, 125, 2800, 90),
    ("FLAIR", "SE IR", 6000, 110, 2000, 90), ("FLAIR", "SE IR", 4800, 320, 1650, 90),
    ("", "SE", 3000, 50, None, 90), ("", "GR", 600, 20, None, 20), ("", "GR", 30, 5, None, 5),
    ("", "GR IR", 5000, 3, 2500, 5), ("", "EP SE", 6000, 90, None, 90), ("", "SE IR", 3000, 20, 400, 90),
]  # fmt: skip
# Grey and white matter at 1.5 and at 3 T: T1 in living brains by Wright et al., MAGMA 2008;21:121, T2 by Stanisz et
# al., MRM 2005;54:507.
OTHER_TISSUES = [((1197.0, 95.0), (646.0, 72.0)), ((1607.0, 99.0), (838.0, 69.0))]


def cases(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.strip(), wanted) for wanted, names in table.items() for name in names.split("|")]


def acquired(codes: str, tr: float, te: float, ti: float | None, flip: float, **more) -> Acquisition:
    return Acquisition(codes=frozenset(codes.split()), tr=tr, te=te, ti=ti, flip=flip, **more)


@pytest.mark.parametrize(("name", "contrast"), cases(NAMES))
def test_a_name_tells_the_contrast_and_that_the_image_is_anatomical(name, contrast):
    assert decide_contrast(Acquisition(description=name))[0] == contrast
    assert why_not_anatomical(Acquisition(description=name)) == ""


@pytest.mark.parametrize(("name", "kind"), cases(OTHERS))
def test_a_name_tells_what_is_no_anatomical_head(name, kind):
    why = why_not_anatomical(Acquisition(description=name))
    assert kind in why
    assert repr(name) in why


@pytest.mark.parametrize(("contrast", "codes", "tr", "te", "ti", "flip"), PROTOCOLS)
def test_the_timing_of_usual_protocols_tells_the_contrast_at_both_field_strengths(
    contrast, codes, tr, te, ti, flip, monkeypatch
):
    one = acquired(codes, tr, te, ti, flip)
    assert contrast_by_timing(one) == contrast
    fluid, grey, white = dicom_contrasts.TISSUES.values()
    for (grey_t1, grey_t2), (white_t1, white_t2) in OTHER_TISSUES:
        other = {"fluid": fluid, "grey": (grey[0], grey_t1, grey_t2), "white": (white[0], white_t1, white_t2)}
        monkeypatch.setattr(dicom_contrasts, "TISSUES", other)
        assert contrast_by_timing(one) == contrast


def test_a_name_that_the_timing_contradicts_is_not_believed_nor_is_the_timing():
    contrast, why = decide_contrast(acquired("SE", 6000, 100, None, 150, description="t1_se_tra"))
    assert contrast == ""
    assert "T1w" in why
    assert "T2w" in why


def test_an_inversion_that_the_header_does_not_mention_contradicts_no_name():
    assert decide_contrast(acquired("SE", 9000, 120, None, 150, description="FLAIR"))[0] == "FLAIR"
    assert decide_contrast(acquired("SE", 2000, 20, None, 90, description="Sag T1 FLAIR"))[0] == "T1w"
    # but with its time given the name must fit
    assert decide_contrast(acquired("SE IR", 2000, 20, 750, 90, description="FLAIR"))[0] == ""


def test_the_echoes_of_one_name_are_told_apart_by_their_timing():
    for name in ("AX DUAL_TSE", "Axial PD-T2 TSE", ""):
        assert decide_contrast(acquired("SE", 3000, 12, None, 90, description=name))[0] == "PD"
        assert decide_contrast(acquired("SE", 3000, 96, None, 90, description=name))[0] == "T2w"


def test_contrast_agent_in_the_header_counts_unless_the_name_denies_it():
    assert decide_contrast(Acquisition(description="t1_se_tra", agent="GADOVIST"))[0] == "T1ce"
    assert decide_contrast(Acquisition(description="t1_se_tra nativ", agent="GADOVIST"))[0] == "T1w"
    assert decide_contrast(Acquisition(description="T1 without contrast", agent="GADOVIST"))[0] == "T1w"
    assert decide_contrast(Acquisition(description="T1 pre and post", agent="GADOVIST"))[0] == "T1ce"
    assert decide_contrast(Acquisition(description="AX T2", agent="GADOVIST"))[0] == "T2w"
    assert decide_contrast(acquired("GR IR", 2300, 3, 900, 9, agent="Dotarem"))[0] == "T1ce"


@pytest.mark.parametrize(
    ("why", "header"),
    [
        ("modality CT", {"modality": "CT"}),
        ("Secondary Capture Image Storage", {"kind": "Secondary Capture Image Storage"}),
        ("colour", {"photometric": "RGB"}),
        ("diffusion", {"image_type": ("DERIVED", "PRIMARY", "ADC", "ND")}),
        ("phase of a complex image", {"component": "PHASE"}),
        ("projection", {"image_type": ("DERIVED", "SECONDARY", "PROJECTION IMAGE")}),
        ("echo planar", {"codes": frozenset({"EP", "SE"})}),
        ("T2*", {"codes": frozenset({"GR"}), "te": 20.0}),
        ("angiography", {"angiography": True}),
        ("perfusion", {"weighting": "PERFUSION"}),
        ("diffusion", {"b_value": 1000.0}),
        ("LSPINE", {"body_part": "LSPINE"}),
    ],
)
def test_the_header_tells_what_is_no_anatomical_head(why, header):
    assert why_not_anatomical(Acquisition(description="t1", image_type=("ORIGINAL", "PRIMARY", "M"))) == ""
    assert why in why_not_anatomical(Acquisition(**{"description": "t1", **header}))
