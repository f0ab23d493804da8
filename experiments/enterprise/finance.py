"""Finance: never trained on."""

from lexicon import (
    ACCESS,
    ALLOWANCE,
    ASSET,
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
        "Supplier Invoice", "siv", MONEY, "demand for payment received from a trading partner",
        ("bill", "AP item", "payable", "payment demand"),
        (
            attribute("vat_amt", "Tax portion", "how much of {x} goes to the state", "the VAT inside {x}"),
            attribute("dsc_pct", "Early discount", "what we save by paying {x} soon", "the skonto on {x}"),
        ),
    ),
    Record(
        "Expense Claim", "xcl", MONEY, "refund of outlays made by staff",
        ("reimbursement", "travel costs form", "T&E report", "out-of-pocket sheet"),
        (
            attribute("rcp_cnt", "Receipts", "how many slips came with {x}", "the number of vouchers in {x}"),
            attribute("km_cnt", "Kilometres", "how far somebody drove for {x}", "the mileage in {x}"),
        ),
    ),
    Record(
        "Purchase Order", "puo", MONEY, "binding commitment to buy",
        ("PO", "buying order", "order to a supplier", "goods order"),
        (
            attribute("rcv_pct", "Received share", "how much of {x} has arrived", "what part of {x} is in"),
            attribute("inc_cd", "Delivery terms", "who pays the freight in {x}", "the incoterm of {x}"),
        ),
    ),
    Record(
        "Cost Centre", "cct", MASTER, "organisational unit that collects charges",
        ("department wallet", "cost bucket", "spending unit", "charge code"),
        (
            attribute("cap_amt", "Ceiling", "the most that {x} may spend", "how high the lid on {x} is"),
            attribute("blk_flg", "Blocked", "whether nothing may be booked on {x}", "if {x} is frozen"),
        ),
    ),
    Record(
        "Journal Entry", "jrn", PAPER, "posting in the general ledger",
        ("booking", "GL line", "debit-credit pair", "accounting correction"),
        (
            attribute("per_cd", "Period", "in which month {x} counts", "the fiscal slot of {x}"),
            attribute("rvs_flg", "Reversed", "whether {x} was taken back", "if {x} was undone later"),
        ),
    ),
    Record(
        "Budget Line", "bgl", MONEY, "planned figure for a year",
        ("spending plan", "annual allotment", "planned figure", "pot of money"),
        (
            attribute("use_pct", "Consumption", "how much of {x} is gone", "the burnt part of {x}"),
            attribute("yr_cd", "Fiscal year", "which year {x} is meant for", "the twelve months of {x}"),
        ),
    ),
    Record(
        "Fixed Asset", "fxa", ASSET, "durable good on the balance sheet",
        ("capex item", "capital good", "depreciating item", "machine on the books"),
        (
            attribute("dep_pct", "Depreciation", "how fast {x} loses value", "the yearly write-off of {x}"),
            attribute("scp_dt", "Scrapped", "when {x} was thrown out", "the end of {x}"),
        ),
    ),
    Record(
        "Bank Settlement", "bks", MONEY, "collective transfer to creditors",
        ("wire batch", "money run", "supplier payout", "outgoing transfer"),
        (
            attribute("vdt_dt", "Value day", "when the bank books {x}", "the day {x} hits the account"),
            attribute("rej_cnt", "Rejected items", "how many lines of {x} bounced", "what the bank refused in {x}"),
        ),
    ),
    Record(
        "Tax Filing", "txf", PAPER, "declaration to an authority",
        ("VAT return", "tax declaration", "levy form", "statement to the tax office"),
        (
            attribute("aut_ref", "Authority", "which office {x} goes to", "the fiscal body reading {x}"),
            attribute("pen_amt", "Penalty", "what fine came with {x}", "the surcharge on {x}"),
        ),
    ),
)  # fmt: skip

LINKS = (("puo", "siv"), ("siv", "bks"), ("xcl", "cct"), ("fxa", "cct"), ("bgl", "cct"))

SERVICES = (
    Service("Travel Advance", ALLOWANCE, ("trip money upfront", "cash for my trip", "a travel prepayment", "per diem")),
    Service("Outlay Refund", ALLOWANCE, ("my expenses", "money back for receipts", "a reimbursement", "taxi money")),
    Service("Client Hospitality", ALLOWANCE, ("dinner with clients", "a customer meal", "an entertainment budget")),
    Service("Ledgerline Accounting", ACCESS, ("Ledgerline", "the ERP", "the bookkeeping system", "the GL tool")),
    Service("Spendview Planning", ACCESS, ("Spendview", "the budget tool", "the planning sheets", "the forecast site")),
    Service("Tripdesk Booking", ACCESS, ("Tripdesk", "the flight booking site", "the travel portal", "hotel booking")),
    Service("Invoice Duplicate", DEED, ("copy of a bill", "second invoice", "invoice PDF", "invoice reprint")),
    Service("Tax Residency Certificate", DEED, ("tax paper", "form for the tax office", "residency proof")),
    Service("Charge Code", DEED, ("cost centre", "number to book on", "project account", "booking code")),
    Service("Card Terminal", GEAR, ("payment terminal", "card reader", "swipe machine", "chip-and-pin box")),
)  # fmt: skip

FINANCE = Department("Finance", "fi", RECORDS, LINKS, SERVICES)
