"""The platform's shared columns and the tables that accompany every record."""

from dataclasses import dataclass

from lexicon import ANY_RECORD, ASSET, CASE, MASTER, MONEY, PAPER, Attribute, attribute

OWNER = attribute(
    "own_by", "Owner", "who looks after {x}", "who is in charge of {x}", "whose baby {x} is", "the caretaker of {x}"
)
GROUP = attribute(
    "asg_grp", "Assigned group", "which team {x} sits with", "what crew works on {x}", "the squad that has {x}"
)
TOUCHED = attribute(
    "upd_dt", "Last write", "when {x} was last touched", "how recently {x} was edited", "the latest time {x} moved"
)
SITE = attribute(
    "loc_ref", "Location", "which office {x} belongs to", "where on the map {x} is", "what site {x} is tied to"
)
PAYER = attribute(
    "cct_ref", "Cost object", "whose budget {x} is charged to", "who foots the bill for {x}", "which purse pays for {x}"
)
TOTAL = attribute("tot_amt", "Amount", "what {x} costs altogether", "how expensive {x} is", "the price we pay for {x}")
MONEY_UNIT = attribute(
    "cur_cd", "Currency", "whether {x} is in euros or dollars", "what money {x} is counted in", "the coin used in {x}"
)
OPENED = attribute("opn_dt", "Opened", "when {x} first came in", "since when {x} has existed", "the day {x} was born")
CLOSED = attribute(
    "cls_dt", "Closed", "when {x} was wrapped up", "the day {x} was finished", "when we were done with {x}"
)
DUE = attribute(
    "due_dt", "Deadline", "by when {x} has to be ready", "how long we may take over {x}", "the time limit for {x}"
)
STATE = attribute(
    "sta_cd", "State", "how far along {x} is", "what stage {x} is at", "whether {x} is still running or over"
)
PRIORITY = attribute("pri_cd", "Priority", "how urgent {x} is", "how much of a rush {x} is", "whether {x} can wait")
REQUESTER = attribute(
    "req_by", "Requested by", "who asked for {x}", "who wanted {x} in the first place", "the person {x} came from"
)
CHANNEL = attribute(
    "chn_cd", "Intake channel", "whether {x} came by mail or phone", "how {x} reached us", "the way {x} got in"
)
SUPPLIER = attribute(
    "sup_ref", "Supplier", "from which company {x} comes", "who sold us {x}", "the firm we got {x} from"
)
EXPIRY = attribute("exp_dt", "Valid to", "when {x} runs out", "how long {x} stays good", "the date {x} lapses")
VERSION = attribute(
    "edn_cnt", "Edition", "how many times {x} has been rewritten", "which draft of {x} is current", "the issue of {x}"
)
SIGNER = attribute(
    "apr_by", "Approver", "who gave the nod to {x}", "whose signature is under {x}", "the boss that waved {x} through"
)
SECRET = attribute(
    "cnf_cd", "Confidentiality", "how secret {x} is", "who may not read {x}", "whether {x} is for insiders only"
)
LANGUAGE = attribute(
    "lng_cd", "Language", "whether {x} is in English or German", "what tongue {x} is in", "how {x} is worded, EN or FR"
)
FOREIGN_KEY = attribute(
    "ext_txt", "External key", "the number {x} has at our partner", "how {x} is called in the other system",
    "the outside reference of {x}",
)  # fmt: skip
DELETION = attribute(
    "ret_dt", "Retention", "when {x} may be destroyed", "how many years we must keep {x}", "the day {x} can be shredded"
)
ESCALATIONS = attribute(
    "esc_cnt", "Escalations", "how often {x} was pushed up the ladder", "how many bosses got dragged into {x}",
    "the number of times {x} blew up",
)  # fmt: skip
OUTCOME = attribute(
    "out_txt", "Closing text", "how {x} ended, in words", "what was written when {x} finished",
    "the final remarks on {x}",
)  # fmt: skip
CONDITION = attribute(
    "hlt_cd", "Health", "what shape {x} is in", "whether {x} is okay or failing", "the fitness of {x}"
)
BOUGHT = attribute("buy_dt", "Acquired", "when we got hold of {x}", "how old {x} is", "the day {x} became ours")

SHARED_ATTRIBUTES: dict[str, tuple[Attribute, ...]] = {
    CASE: (OWNER, GROUP, TOUCHED, OPENED, CLOSED, DUE, STATE, PRIORITY, REQUESTER, CHANNEL, ESCALATIONS, OUTCOME, SITE,
           SIGNER, FOREIGN_KEY, DELETION),
    ASSET: (OWNER, GROUP, TOUCHED, SITE, PAYER, TOTAL, SUPPLIER, CONDITION, BOUGHT, FOREIGN_KEY, STATE, SECRET),
    MONEY: (OWNER, TOUCHED, PAYER, TOTAL, MONEY_UNIT, OPENED, CLOSED, DUE, STATE, REQUESTER, SUPPLIER, SIGNER, SITE,
            FOREIGN_KEY, DELETION),
    PAPER: (OWNER, TOUCHED, SITE, EXPIRY, VERSION, SIGNER, SECRET, LANGUAGE, DELETION, OPENED, STATE, GROUP),
    MASTER: (OWNER, GROUP, TOUCHED, SITE, OPENED, CLOSED, STATE, SECRET, FOREIGN_KEY, DELETION, REQUESTER),
}  # fmt: skip

# Their values also stand in an accompanying table, so a question about them has no single right table.
ALSO_ELSEWHERE = frozenset(one.code for one in (SIGNER, DUE, TOTAL, TOUCHED, DELETION, SECRET))

TYPES = {
    "dt": "date", "by": "reference sys_person", "grp": "reference sys_group", "ref": "reference", "amt": "currency",
    "cd": "choice", "txt": "string", "flg": "boolean", "cnt": "integer", "pct": "percentage",
}  # fmt: skip


@dataclass(frozen=True)
class Companion:
    """A table beside the record's main one. Phrases are clauses: what somebody finds out from it."""

    suffix: str
    label: str  # with `{name}`
    columns: str  # with `{code}`
    kinds: tuple[str, ...]
    keyword: str
    said: tuple[str, ...]


COMPANIONS = (
    Companion(
        "trl", "{name} trail", "{code}_ref, col_txt, old_txt, new_txt, upd_by, upd_dt", ANY_RECORD, "edits",
        ("who altered {xs} and what stood there before", "every value {a} has had over time",
         "how {a} looked before somebody changed it", "which edits were made to {xs}"),
    ),
    Companion(
        "tsk", "{name} work item", "{code}_ref, seq_cnt, own_by, sta_cd, due_dt", (CASE, MONEY), "to-dos",
        ("which small jobs {a} breaks down into", "who does what piece of {xs}", "the to-dos that hang under {a}",
         "the checklist people work through for {a}"),
    ),
    Companion(
        "typ", "{name} category", "typ_cd, lbl_txt, act_flg, ord_cnt", ANY_RECORD, "kinds",
        ("what sorts of {xs} one can choose from", "which drop-down values exist for {xs}",
         "the kinds of {xs} we distinguish", "how we classify {xs}"),
    ),
    Companion(
        "arc", "{name} archive", "{code}_txt, pld_txt, arc_dt, ret_dt", ANY_RECORD, "old",
        ("what became of {xs} from ten years ago", "which {xs} left the live list long ago",
         "the {xs} from before the migration", "anything about {xs} that were put away"),
    ),
    Companion(
        "stg", "{name} landing area", "btc_ref, row_cnt, raw_txt, err_txt, ldd_dt", ANY_RECORD, "import",
        ("which {xs} came in with last night's file and were not checked yet",
         "why {a} was refused by the nightly import",
         "what raw lines we got for {xs} before clean-up", "how {xs} looked as uploaded"),
    ),
    Companion(
        "clk", "{name} service clock", "{code}_ref, tgt_ref, sta_dt, pau_cnt, brk_flg", (CASE, MONEY), "SLA",
        ("how much time is left on {xs} before we break our promise", "which {xs} overran their target time",
         "when the stopwatch on {a} was paused", "the SLA countdown for {xs}"),
    ),
    Companion(
        "chg_ln", "{name} charge line", "{code}_ref, ln_cnt, tot_amt, cur_cd, cct_ref", (CASE, ASSET, MONEY), "charges",
        ("which single amounts were booked on {xs}", "what we were billed for {a}, item by item",
         "how the cost of {a} is made up", "the price breakdown of {xs}"),
    ),
    Companion(
        "wat", "{name} watcher", "{code}_ref, per_ref, chn_cd, mut_flg", ANY_RECORD, "subscribers",
        ("who gets mails about {xs}", "which people follow {a}", "the audience that is kept posted on {xs}",
         "whose inbox hears about {xs}"),
    ),
    Companion(
        "acl", "{name} visibility rule", "rol_ref, col_txt, rd_flg, wr_flg", ANY_RECORD, "rights",
        ("who is allowed to see {xs}", "which roles may edit {xs}", "why a colleague can't open {a}",
         "whose eyes {xs} are meant for"),
    ),
    Companion(
        "clp", "{name} clip", "{code}_ref, fil_txt, siz_cnt, sha_txt, own_by", ANY_RECORD, "files",
        ("which files hang on {xs}", "what scans and pictures were stored with {a}", "the attachments of {xs}",
         "how big the documents uploaded to {xs} are"),
    ),
    Companion(
        "vdt", "{name} verdict", "{code}_ref, apr_by, out_cd, rsn_txt, dec_dt", (CASE, MONEY, PAPER), "decisions",
        ("why {xs} were turned down", "the reasons managers gave for their yes or no to {xs}",
         "every single vote on {xs}",
         "how long bosses took to decide on {xs}"),
    ),
)  # fmt: skip

LINK_SAID = (
    "which {as} belong to which {bs}", "how {as} and {bs} are connected", "what {as} are tied to {b}",
    "the pairs of {as} and {bs}",
)  # fmt: skip
