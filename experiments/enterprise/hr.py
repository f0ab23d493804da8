"""Human resources: never trained on."""

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
        "Employee Case", "emc", CASE, "question or grievance of a member of staff",
        ("people question", "HR query", "staff issue", "personnel matter"),
        (
            attribute("cnf_by", "Confidant", "which trusted person hears {x}", "the ear staff chose for {x}"),
            attribute("anm_flg", "Anonymous", "whether {x} came without a name", "if the sender of {x} hides"),
        ),
    ),
    Record(
        "Leave Request", "lvr", CASE, "planned absence of a member of staff",
        ("holiday application", "PTO booking", "vacation ask", "time-off form"),
        (
            attribute("day_cnt", "Working days", "how many days {x} eats up", "the length of {x}"),
            attribute("sub_by", "Substitute", "who covers during {x}", "the colleague standing in for {x}"),
        ),
    ),
    Record(
        "Joiner Plan", "jnp", CASE, "preparation of a first working day",
        ("onboarding", "new-hire setup", "starter checklist", "induction"),
        (
            attribute("fdy_dt", "Start day", "when the newcomer in {x} begins", "day one in {x}"),
            attribute("bud_by", "Buddy", "who shows the newcomer in {x} around", "the godparent in {x}"),
        ),
    ),
    Record(
        "Leaver Plan", "lvp", CASE, "orderly end of an employment",
        ("offboarding", "exit process", "departure", "resignation checklist"),
        (
            attribute("ldy_dt", "Last day", "when the person in {x} walks out", "the final day in {x}"),
            attribute("rsn_cd", "Reason", "why somebody quits according to {x}", "the motive behind {x}"),
        ),
    ),
    Record(
        "Payroll Run", "pyr", MONEY, "monthly settlement of remuneration",
        ("salary payment", "pay cycle", "wage payout", "payslip batch"),
        (
            attribute("hdc_cnt", "Persons paid", "how many people get money in {x}", "the crowd served by {x}"),
            attribute("net_amt", "Net total", "what lands on bank accounts after {x}", "take-home sum of {x}"),
        ),
    ),
    Record(
        "Position", "pos", MASTER, "approved place in the organisation",
        ("vacancy", "open job", "headcount slot", "role in the org chart"),
        (
            attribute("grd_cd", "Grade", "what pay band {x} has", "the rung of the ladder for {x}"),
            attribute("mgr_by", "Line manager", "who {x} reports to", "the boss of {x}"),
        ),
    ),
    Record(
        "Applicant", "apl", CASE, "person in a recruiting procedure",
        ("candidate", "job seeker", "interviewee", "potential hire"),
        (
            attribute("sal_amt", "Salary wish", "how much pay {x} is hoping for", "the money {x} dreams of"),
            attribute("itv_dt", "Interview", "when we talk to {x}", "the appointment with {x}"),
        ),
    ),
    Record(
        "Learning Assignment", "lrn", PAPER, "course that a member of staff has to take",
        ("training", "e-learning module", "mandatory class", "workshop seat"),
        (
            attribute("scr_pct", "Result", "how well somebody did in {x}", "the marks earned in {x}"),
            attribute("trn_by", "Instructor", "who teaches {x}", "the coach of {x}"),
        ),
    ),
    Record(
        "Performance Review", "pfr", PAPER, "yearly appraisal of a member of staff",
        ("annual talk", "evaluation", "yearly feedback form", "check-in with the boss"),
        (
            attribute("rat_cd", "Rating", "the mark somebody got in {x}", "how {x} turned out"),
            attribute("goa_txt", "Goals", "what was agreed for next year in {x}", "the targets set in {x}"),
        ),
    ),
)  # fmt: skip

LINKS = (("jnp", "pos"), ("apl", "pos"), ("lrn", "pfr"), ("emc", "lvp"))

SERVICES = (
    Service("Annual Leave", ALLOWANCE, ("holiday", "vacation days", "PTO", "time off")),
    Service("Parental Leave", ALLOWANCE, ("baby leave", "time off for the newborn", "paternity months", "mat leave")),
    Service("Cycle Scheme", ALLOWANCE, ("the bike lease", "a company bike", "the e-bike deal", "a subsidised bicycle")),
    Service("Relocation Support", ALLOWANCE, ("moving help", "money for the move", "help with my new flat", "a mover")),
    Service("Learning Fund", ALLOWANCE, ("the training budget", "a course grant", "study money", "conference money")),
    Service("Staffdesk Self-service", ACCESS, ("Staffdesk", "the HR portal", "my staff profile", "the people site")),
    Service("Talentpool Recruiting", ACCESS, ("Talentpool", "the hiring tool", "the CV system", "the applicant site")),
    Service("Employment Statement", DEED, ("proof of employment", "letter for my landlord", "work confirmation")),
    Service("Remuneration Statement", DEED, ("payslip", "salary slip", "pay stub", "wage sheet")),
    Service("Residence Permit File", DEED, ("work visa", "permit for my stay", "immigration letter", "visa paper")),
)  # fmt: skip

HR = Department("HR", "hr", RECORDS, LINKS, SERVICES)
