"""Legal and procurement: never trained on."""

from lexicon import (
    ACCESS,
    ALLOWANCE,
    CASE,
    DEED,
    MASTER,
    MONEY,
    PAPER,
    Department,
    Record,
    Service,
    attribute,
)

RECORDS = (
    Record(
        "Contract", "ctr", PAPER, "binding terms with another party",
        ("agreement", "signed deal", "MSA", "deal paper"),
        (
            attribute("ntc_cnt", "Notice period", "how early we must speak up to leave {x}", "days of warning in {x}"),
            attribute("jur_cd", "Governing law", "which country's courts rule over {x}", "the jurisdiction of {x}"),
        ),
    ),
    Record(
        "Legal Matter", "lgm", CASE, "proceeding handled by counsel",
        ("lawsuit", "dispute", "court case", "litigation"),
        (
            attribute("opp_ref", "Opponent", "who we are fighting in {x}", "the other side in {x}"),
            attribute("prv_amt", "Provision", "what we set aside in case we lose {x}", "the rainy-day sum for {x}"),
        ),
    ),
    Record(
        "Supplier Master", "spm", MASTER, "qualified trading partner",
        ("vendor", "seller file", "business partner", "third party"),
        (
            attribute("iba_txt", "Bank details", "where to wire money for {x}", "the IBAN of {x}"),
            attribute("esg_cnt", "Sustainability score", "how green {x} is", "the eco grade of {x}"),
        ),
    ),
    Record(
        "Sourcing Event", "sev", CASE, "competitive selection of a trading partner",
        ("tender", "RFP", "bidding round", "call for bids"),
        (
            attribute("bid_cnt", "Bids", "how many firms took part in {x}", "the number of rivals in {x}"),
            attribute("awd_ref", "Awarded to", "who won {x}", "the firm chosen in {x}"),
        ),
    ),
    Record(
        "Confidentiality Undertaking", "cnu", PAPER, "mutual promise of secrecy",
        ("NDA", "secrecy pledge", "non-disclosure", "hush paper"),
        (
            attribute("mut_flg", "Mutual", "whether {x} binds both sides", "if {x} goes one way only"),
            attribute("prj_txt", "Purpose", "what talks {x} is about", "the secret thing in {x}"),
        ),
    ),
    Record(
        "Policy Document", "pol", PAPER, "internal norm in force",
        ("company rule", "guideline", "code of conduct", "internal regulation"),
        (
            attribute("ack_pct", "Acknowledged", "what share of staff has ticked {x}", "how many confirmed {x}"),
            attribute("aud_cd", "Audience", "who has to obey {x}", "the people {x} is written for"),
        ),
    ),
    Record(
        "Privacy Request", "dsr", CASE, "exercise of rights by a data subject",
        ("GDPR inquiry", "DSAR", "data deletion wish", "subject access letter"),
        (
            attribute(
                "idv_flg", "Identity verified", "whether we know the sender of {x} is real", "if {x} was ID-checked",
            ),
            attribute(
                "sys_cnt", "Systems searched", "in how many places we looked for {x}", "the tools combed for {x}",
            ),
        ),
    ),
    Record(
        "Insurance Claim", "icl", MONEY, "notice of loss to an underwriter",
        ("loss notice", "damage report", "payout demand", "coverage ask"),
        (
            attribute("ded_amt", "Deductible", "what we pay ourselves in {x}", "our own share of {x}"),
            attribute("adj_by", "Adjuster", "who the insurer sends for {x}", "the expert judging {x}"),
        ),
    ),
)  # fmt: skip

LINKS = (("ctr", "spm"), ("sev", "spm"), ("cnu", "ctr"), ("lgm", "icl"))

SERVICES = (
    Service("Confidentiality Undertaking", DEED, ("NDA", "secrecy pledge", "non-disclosure", "hush paper")),
    Service("Contract Examination", DEED, ("contract check", "legal review", "small-print check", "lawyer's OK")),
    Service("Power of Representation", DEED, ("power of attorney", "proxy", "signing right", "mandate")),
    Service("Trademark Clearance", DEED, ("brand name check", "logo check", "name search", "trademark opinion")),
    Service("Supplier Qualification", DEED, ("vendor approval", "new vendor setup", "supplier vetting", "vendor file")),
    Service(
        "Clausebook Archive", ACCESS, ("Clausebook", "the contract archive", "the legal vault", "signed contracts"),
    ),
    Service("Bidroom Sourcing", ACCESS, ("Bidroom", "the tender platform", "the RFP site", "the supplier portal")),
    Service("External Counsel", ALLOWANCE, ("an outside lawyer", "a law firm", "a patent attorney", "legal help")),
    Service("Litigation Cover", ALLOWANCE, ("legal protection", "legal insurance", "cover for a lawsuit")),
)  # fmt: skip

LEGAL = Department("Legal and Procurement", "lp", RECORDS, LINKS, SERVICES)
