"""Facilities: never trained on."""

from lexicon import (
    ACCESS,
    ALLOWANCE,
    ASSET,
    CASE,
    DEED,
    GEAR,
    PAPER,
    Department,
    Record,
    Service,
    attribute,
)

RECORDS = (
    Record(
        "Work Order", "wko", CASE, "technical intervention in a building",
        ("repair job", "handyman call", "fix-it ticket", "janitor task"),
        (
            attribute("prt_txt", "Spare parts", "which bits were used up in {x}", "the material eaten by {x}"),
            attribute("hrs_cnt", "Labour hours", "how long the crew toiled on {x}", "the man-hours in {x}"),
        ),
    ),
    Record(
        "Room", "rom", ASSET, "bookable enclosed area",
        ("meeting space", "conference area", "huddle corner", "boardroom"),
        (
            attribute("cap_cnt", "Capacity", "how many chairs fit in {x}", "the crowd {x} can take"),
            attribute("flr_cd", "Floor", "on which storey {x} is", "the level of {x}"),
        ),
    ),
    Record(
        "Access Badge", "bdg", ASSET, "carrier of door permissions",
        ("door card", "ID pass", "entry fob", "key card"),
        (
            attribute("zon_txt", "Zones", "what doors {x} opens", "the areas {x} is good for"),
            attribute("lst_flg", "Lost", "whether {x} has gone missing", "if nobody can find {x}"),
        ),
    ),
    Record(
        "Desk Booking", "dkb", CASE, "reservation of a shared working place",
        ("hot-desk reservation", "workplace slot", "flex place", "seat for the day"),
        (
            attribute("arv_dt", "Check-in", "when the person really sat down for {x}", "arrival time in {x}"),
            attribute("nos_flg", "No-show", "whether nobody turned up for {x}", "if {x} stayed empty"),
        ),
    ),
    Record(
        "Visitor Registration", "vsr", PAPER, "announcement of an external person",
        ("guest sign-in", "visit notice", "expected guest", "caller at reception"),
        (
            attribute("hos_by", "Host", "who picks up the person in {x}", "the employee {x} is for"),
            attribute("pla_txt", "Number plate", "what car belongs to {x}", "the vehicle in {x}"),
        ),
    ),
    Record(
        "Parcel Shipment", "pcl", CASE, "item handled by the post room",
        ("package", "courier item", "mail piece", "delivery"),
        (
            attribute("wgt_cnt", "Weight", "how heavy {x} is", "the kilos of {x}"),
            attribute("trk_txt", "Tracking code", "the number to follow {x} on the web", "how to trace {x}"),
        ),
    ),
    Record(
        "Fleet Vehicle", "flv", ASSET, "motor car owned or leased by the company",
        ("pool car", "company van", "staff car", "leased auto"),
        (
            attribute("odo_cnt", "Odometer", "how far {x} has driven", "the miles on {x}"),
            attribute("fue_cd", "Propulsion", "whether {x} is electric or diesel", "what {x} runs on"),
        ),
    ),
    Record(
        "Safety Inspection", "sfi", PAPER, "examination of protective measures",
        ("fire-alarm check", "H&S audit", "hazard walkthrough", "ladder test"),
        (
            attribute("dfc_cnt", "Defects", "how many flaws {x} turned up", "what was wrong in {x}"),
            attribute("nxt_dt", "Next examination", "when {x} comes round again", "the follow-up of {x}"),
        ),
    ),
)  # fmt: skip

LINKS = (("wko", "rom"), ("vsr", "bdg"), ("sfi", "wko"), ("dkb", "bdg"))

SERVICES = (
    Service("Ergonomic Seat", GEAR, ("office chair", "desk chair", "swivel chair", "stool for my back")),
    Service("Height-adjustable Table", GEAR, ("standing desk", "sit-stand desk", "lift desk", "high table")),
    Service("Pool Vehicle", GEAR, ("company car", "fleet car", "van", "e-car")),
    Service("Climate Unit", GEAR, ("AC", "air conditioner", "heater", "ventilator")),
    Service("Beverage Dispenser", GEAR, ("coffee machine", "water cooler", "espresso maker", "vending machine")),
    Service("Parking Permission", ALLOWANCE, ("a parking spot", "parking", "a place in the garage", "a car bay")),
    Service("Event Catering", ALLOWANCE, ("sandwiches for a meeting", "food for our workshop", "lunch for guests")),
    Service("Gatehouse Entry System", ACCESS, ("the building", "the turnstile", "Gatehouse", "the lab door")),
    Service("Roomfinder Booking", ACCESS, ("Roomfinder", "the room booking app", "the desk planner", "the floor map")),
    Service("Name Plate", DEED, ("door sign", "desk sign", "plaque", "business card")),
)  # fmt: skip

FACILITIES = Department("Facilities", "fm", RECORDS, LINKS, SERVICES)
