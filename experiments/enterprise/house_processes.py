"""Ready-made flows and reports: what no mixture of the quickstart trains on."""

from dataclasses import dataclass

from lexicon import ANY_RECORD, ASSET, CASE, MONEY, PAPER


@dataclass(frozen=True)
class Pattern:
    """A flow that exists for many records. Phrases are wishes: `we want ...`."""

    key: str
    title: str
    trigger: str
    steps: tuple[str, ...]  # keys of STEPS
    kinds: tuple[str, ...]
    keyword: str
    said: tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """What a report measures."""

    key: str
    title: str  # with `{name}`
    text: str
    kinds: tuple[str, ...]
    keyword: str
    said: tuple[str, ...]  # clauses about `{xs}`


@dataclass(frozen=True)
class Breakdown:
    """What a report is divided by."""

    key: str
    title: str
    keyword: str
    said: tuple[str, ...]


PATTERNS = (
    Pattern(
        "intake", "Intake", "form submitted", ("raise", "score", "route"), ANY_RECORD, "auto-create from form",
        ("a filled-in form to turn into {a} and land with the right people",
         "{a} to appear by itself once a form is sent",
         "no more typing {xs} in by hand from the web form"),
    ),
    Pattern(
        "twokey", "Two-key rule", "amount above limit", ("gate", "patch", "broadcast"), (CASE, MONEY, PAPER),
        "double approval",
        ("nothing to happen with {a} before two managers agree", "four eyes on every big {s}",
         "expensive {xs} to need a second yes"),
    ),
    Pattern(
        "chaser", "Chaser", "every morning", ("sweep", "nudge", "bump"), (CASE, MONEY, PAPER), "overdue reminders",
        ("people to be pestered about {xs} that just sit there", "{xs} that are late to be followed up automatically",
         "someone to keep knocking when {a} doesn't move"),
    ),
    Pattern(
        "spring", "Spring clean", "first of the month", ("sweep", "shelve", "stamp"), ANY_RECORD, "tidy old",
        ("{xs} nobody has touched for ages to vanish from our lists", "stale {xs} tidied up without me",
         "the dead wood among {xs} cut out every month"),
    ),
    Pattern(
        "forget", "Forget-me", "privacy demand accepted", ("sweep", "mask",
        "broadcast"), ANY_RECORD, "erase personal data",
        ("a person's traces gone from all {xs} when they ask for it",
         "{xs} cleared of private data after a GDPR demand",
         "the right to be forgotten honoured for {xs}"),
    ),
    Pattern(
        "twinrun", "Mirror run", "every hour", ("sweep", "mirror", "patch"), ANY_RECORD, "keep in sync",
        ("{xs} to look the same here and at our partner", "the other company's tool to always show our latest {xs}",
         "no double entry of {xs} in two systems"),
    ),
    Pattern(
        "baton", "Baton", "person leaves or moves", ("sweep", "route", "stamp"), ANY_RECORD, "hand over",
        ("{xs} passed on to a colleague when somebody quits", "no orphaned {xs} after people change jobs",
         "a leaver's {xs} to find a new home"),
    ),
    Pattern(
        "reverse", "Reverse gear", "withdrawal received", ("pull", "void", "broadcast"), (CASE, MONEY, PAPER), "undo",
        ("to back out of {a} cleanly and tell those concerned", "{a} stopped midway with nobody left in the dark",
         "an emergency brake for {xs} that should not go on"),
    ),
    Pattern(
        "fanout", "Fan-out", "plan agreed", ("raise", "split", "hold", "seal"), (CASE, MONEY), "parallel work",
        ("several teams to work on {a} at once and finish it when all are through",
         "{a} spread over departments and closed once the last one reports back", "parallel jobs for {a}"),
    ),
    Pattern(
        "expiry", "Expiry watch", "90 days before end", ("sweep", "hold", "broadcast", "raise"), (ASSET, PAPER),
        "renewal warning",
        ("a warning before {xs} run out", "us to renew {xs} in good time rather than notice too late",
         "no more surprises when {a} reaches its end"),
    ),
    Pattern(
        "evidence", "Evidence pack", "auditor asks", ("pull", "clip", "stamp"), ANY_RECORD, "audit file",
        ("all papers about {a} in one folder for the auditors", "proof for the inspectors on {xs} bundled up",
         "the audit binder for {xs} to fill itself"),
    ),
    Pattern(
        "fastlane", "Fast lane", "VIP or critical flag", ("score", "bump", "route"), (CASE, MONEY), "jump the queue",
        ("important {xs} to overtake all the rest", "{xs} from top management served first",
         "the really critical {xs} spotted and treated before others"),
    ),
)  # fmt: skip

METRICS = (
    Metric(
        "volume", "{name} intake", "Rows opened in the period.", ANY_RECORD, "volume",
        ("how many {xs} come in", "whether we get more {xs} than before", "the inflow of {xs}"),
    ),
    Metric(
        "stock", "{name} open stock", "Rows not in a final state.", (CASE, MONEY, PAPER), "backlog",
        ("how many {xs} are still undone", "the mountain of unfinished {xs}", "what pile of {xs} is waiting for us"),
    ),
    Metric(
        "ageing", "{name} ageing", "Days since opening, in classes.", (CASE, MONEY, PAPER), "oldest",
        ("how long {xs} have been lying around", "where {xs} gather dust", "which {xs} are the oldest"),
    ),
    Metric(
        "cycle", "{name} lead time", "Median hours from first to final state.", (CASE, MONEY, PAPER), "duration",
        ("how long we take from start to finish with {xs}", "whether we got faster at handling {xs}",
         "the speed at which {xs} get through"),
    ),
    Metric(
        "breach", "{name} clock breaches", "Share of rows with brk_flg set.", (CASE, MONEY), "late",
        ("how often we are late with {xs}", "where we break our promises on {xs}", "the missed targets for {xs}"),
    ),
    Metric(
        "rework", "{name} rework", "Share of rows reopened after sealing.", (CASE, PAPER), "reopened",
        ("how many {xs} come back after we thought they were done", "what part of {xs} we have to do twice",
         "the boomerangs among {xs}"),
    ),
    Metric(
        "spend", "{name} spend", "Sum of charge lines.", ANY_RECORD, "cost",
        ("how much money goes into {xs}", "what {xs} cost us", "the bucks burnt on {xs}"),
    ),
    Metric(
        "touch", "{name} hand-overs", "Mean number of routings per row.", (CASE, MONEY), "ping-pong",
        ("how many hands {xs} pass through", "whether {xs} get kicked from desk to desk", "the ping-pong with {xs}"),
    ),
    Metric(
        "gaps", "{name} completeness", "Share of mandatory columns filled.", ANY_RECORD, "missing data",
        ("how many {xs} lack important details", "how good our data on {xs} is",
         "the holes in what we know about {xs}"),
    ),
    Metric(
        "outlook", "{name} outlook", "Twelve-week projection with band.", ANY_RECORD, "forecast",
        ("how many {xs} to expect soon", "what is coming at us in terms of {xs}", "next quarter's likely {xs}"),
    ),
    Metric(
        "mood", "{name} requester score", "Mean of the closing survey, 1 to 5.", (CASE, MONEY), "survey",
        ("how happy people are with the way we treat {xs}", "what grades users give us for {xs}",
         "whether folks are grumpy about {xs}"),
    ),
    Metric(
        "robot", "{name} straight-through share", "Rows sealed without a human write.", (CASE, MONEY), "automation",
        ("how many {xs} get by without anybody lifting a finger", "how much of the work on {xs} machines do",
         "what share of {xs} runs by itself"),
    ),
    Metric(
        "use", "{name} utilisation", "Share of time in productive use.", (ASSET,), "usage",
        ("how much our {xs} are really used", "whether {xs} stand idle", "which {xs} nobody needs"),
    ),
    Metric(
        "failure", "{name} failure rate", "Faults per hundred units and month.", (ASSET,), "faults",
        ("how often {xs} break", "how reliable our {xs} are", "the trouble {xs} cause"),
    ),
    Metric(
        "expiring", "{name} run-off", "Rows that lapse within 180 days.", (PAPER, ASSET), "expiring",
        ("how many {xs} end in the next months", "which {xs} are about to lapse", "the {xs} with little time left"),
    ),
)  # fmt: skip

BREAKDOWNS = (
    Breakdown("loc", "by location", "per site", ("office by office", "for each site", "city against city")),
    Breakdown("grp", "by assigned group", "per team", ("for each team", "team by team", "squad against squad")),
    Breakdown("mth", "by month", "trend", ("month on month", "over the year", "as a curve through the months")),
    Breakdown("own", "by owner", "per person", ("person by person", "for each colleague", "by who is in charge")),
    Breakdown("typ", "by category", "per kind", ("for each kind", "split by type", "sort by sort")),
    Breakdown("cct", "by cost object", "per budget", ("budget by budget", "for each purse", "by who pays")),
)  # fmt: skip
