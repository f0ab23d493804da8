"""Customer service: never trained on."""

from lexicon import (
    ACCESS,
    ALLOWANCE,
    ASSET,
    CASE,
    DEED,
    GEAR,
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
        "Customer Case", "csc", CASE, "matter reported by a buyer",
        ("complaint", "client ticket", "buyer's gripe", "outside support call"),
        (
            attribute(
                "nps_cnt", "Recommendation score", "whether the buyer would praise us after {x}", "the NPS of {x}",
            ),
            attribute("crd_amt", "Goodwill", "what we gave to make up for {x}", "the sweetener paid in {x}"),
        ),
    ),
    Record(
        "Return Authorisation", "rma", CASE, "permission to send goods back",
        ("send-back", "RMA", "box coming back", "refund parcel"),
        (
            attribute("cnd_cd", "Condition", "in what shape the stuff in {x} is", "how battered {x} was"),
            attribute("lbl_txt", "Shipping label", "the sticker to put on {x}", "what to print for {x}"),
        ),
    ),
    Record(
        "Field Visit", "fvs", CASE, "appointment of an engineer on site",
        ("technician appointment", "call-out", "engineer trip", "home visit"),
        (
            attribute("eng_by", "Engineer", "who drives out for {x}", "the fitter booked for {x}"),
            attribute("trv_cnt", "Travel time", "how long the ride to {x} takes", "minutes on the road for {x}"),
        ),
    ),
    Record(
        "Service Contract", "svc", PAPER, "promise of maintenance to a buyer",
        ("maintenance plan", "support agreement", "care package", "warranty extension"),
        (
            attribute("tir_cd", "Tier", "whether {x} is gold or silver", "how posh {x} is"),
            attribute("rsp_cnt", "Response time", "how quickly we must react under {x}", "the hours promised in {x}"),
        ),
    ),
    Record(
        "Installed Product", "ipr", ASSET, "unit operated at the buyer's site",
        ("sold device", "appliance we delivered", "machine in the field", "unit at the client's"),
        (
            attribute("ins_dt", "Installed", "since when {x} stands there", "the day {x} was set up at the site"),
            attribute("fwv_txt", "Software level", "what program version {x} has", "how current {x} is"),
        ),
    ),
    Record(
        "Customer Account", "cac", MASTER, "master data of a buyer",
        ("client", "buyer profile", "CRM entry", "company we sell to"),
        (
            attribute("ind_cd", "Industry", "what line of business {x} is in", "the trade of {x}"),
            attribute("rev_amt", "Yearly revenue", "how much we earn with {x}", "the sales made to {x}"),
        ),
    ),
    Record(
        "Sales Quote", "quo", MONEY, "binding price indication",
        ("offer", "price proposal", "estimate", "bid for a buyer"),
        (
            attribute("win_pct", "Win chance", "how likely {x} turns into business", "the odds of {x}"),
            attribute("reb_pct", "Rebate", "how much we knocked off in {x}", "the markdown in {x}"),
        ),
    ),
    Record(
        "Recurring Plan", "rcp", MONEY, "subscription with automatic prolongation",
        ("membership", "monthly plan", "auto-renewing deal", "flat rate"),
        (
            attribute("bil_cd", "Billing rhythm", "how often {x} is charged", "the pay interval of {x}"),
            attribute("chu_pct", "Churn risk", "how likely somebody quits {x}", "the danger of losing {x}"),
        ),
    ),
)  # fmt: skip

LINKS = (("csc", "ipr"), ("svc", "ipr"), ("fvs", "csc"), ("quo", "cac"))

SERVICES = (
    Service("Demonstration Unit", GEAR, ("demo device", "showroom model", "sample machine", "try-out kit")),
    Service("Barcode Scanner", GEAR, ("hand scanner", "code reader", "scan gun", "warehouse beeper")),
    Service("Clientbase Relationship Suite", ACCESS, ("Clientbase", "the CRM", "the sales system", "the client list")),
    Service(
        "Callharbour Telephony", ACCESS, ("Callharbour", "the hotline software", "the phone queue", "the call centre"),
    ),
    Service("Fixroute Dispatch", ACCESS, ("Fixroute", "the technician planner", "the field app", "the route tool")),
    Service(
        "Goodwill Budget", ALLOWANCE, ("a voucher for a client", "a courtesy refund", "a sorry gift", "sweeteners"),
    ),
    Service("Overflow Staffing", ALLOWANCE, ("extra agents", "more hands on the hotline", "temp help for peak days")),
    Service("Price Confirmation", DEED, ("quote", "offer letter", "price list for a client", "written price")),
    Service("Warranty Deed", DEED, ("guarantee card", "warranty paper", "proof of guarantee", "cover note")),
)  # fmt: skip

CUSTOMER = Department("Customer Service", "cs", RECORDS, LINKS, SERVICES)
