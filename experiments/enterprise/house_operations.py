"""What the platform does with records: flow steps and REST operations, under the names the house gives them."""

from lexicon import ANY_RECORD, ASSET, CASE, MONEY, PAPER, Operation

_LIFE_CYCLE = (CASE, MONEY, PAPER)

STEPS = (
    Operation(
        "raise", "Raise", "Inserts a row and hands back its number.", ANY_RECORD, "new",
        ("open {a}", "log {a}", "register {a}", "set up {a}", "put {a} into the system"),
    ),
    Operation(
        "pull", "Pull", "Reads one row by its key.", ANY_RECORD, "lookup",
        ("fetch the details of {x}", "find {x} by its number", "read what we have on {x}", "look up {x}",
         "bring {x} onto the screen"),
    ),
    Operation(
        "sweep", "Sweep", "Selects the rows that meet a filter.", ANY_RECORD, "query all",
        ("collect all {xs} that match", "gather the {xs} that meet a condition", "go through every matching {s}",
         "round up the {xs} that qualify", "list each {s} that fits"),
    ),
    Operation(
        "patch", "Patch", "Writes values to named columns.", ANY_RECORD, "edit",
        ("change a few details of {x}", "fill in the blanks on {x}", "correct the data of {x}", "update {x}",
         "bring {x} up to date"),
    ),
    Operation(
        "route", "Route", "Sets the responsible group.", ANY_RECORD, "assign",
        ("hand {x} to the right team", "give {x} to whoever is responsible", "assign {x} to somebody",
         "dispatch {x} to a group", "find a new handler for {x}"),
    ),
    Operation(
        "gate", "Gate", "Suspends the flow until a decision is in.", _LIFE_CYCLE, "sign-off",
        ("get sign-off for {x}", "have a manager okay {x}", "ask for approval of {x}",
         "let the boss say yes or no to {x}",
         "get a green light for {x}"),
    ),
    Operation(
        "nudge", "Nudge", "Repeats the call to the responsible person.", (CASE, MONEY, PAPER), "reminder",
        ("remind the owner of {x}", "chase whoever is sitting on {x}", "send a reminder about {x}",
         "follow up on {x} with the assignee", "poke the person dealing with {x}"),
    ),
    Operation(
        "broadcast", "Broadcast", "Messages every watcher.", ANY_RECORD, "notify everyone",
        ("tell everybody following {x}", "let all stakeholders know about {x}", "email everyone involved in {x}",
         "spread the word about {x}", "announce the news on {x} to the whole crowd"),
    ),
    Operation(
        "hold", "Hold", "Sleeps until a date or a state is reached.", ANY_RECORD, "wait",
        ("wait until {x} is ready", "pause till something happens with {x}", "go no further before {x} has moved on",
         "delay the rest until {x} changes", "sit tight until {x} gets there"),
    ),
    Operation(
        "seal", "Seal", "Ends the life cycle as completed.", _LIFE_CYCLE, "done",
        ("close {x}", "mark {x} as done", "wrap {x} up", "complete {x}", "tick {x} off"),
    ),
    Operation(
        "void", "Void", "Ends the life cycle without effect.", _LIFE_CYCLE, "cancel",
        ("cancel {x}", "call {x} off", "withdraw {x}", "drop {x} for good", "scrap {x}"),
    ),
    Operation(
        "shelve", "Shelve", "Moves the row to the archive table.", ANY_RECORD, "put away",
        ("put {x} into cold storage", "move {x} out of the live data", "tuck {x} away with the old ones",
         "archive {x}", "take {x} off the active list"),
    ),
    Operation(
        "bind", "Bind", "Relates the row to another.", ANY_RECORD, "link",
        ("link {x} to a related record", "tie {x} to its parent", "connect {x} with another entry",
         "associate {x} with a second record", "make {x} a child of something bigger"),
    ),
    Operation(
        "stamp", "Stamp", "Appends an entry to the journal.", ANY_RECORD, "comment",
        ("leave a note on {x}", "write a comment on {x}", "jot down what happened on {x}", "add a work note to {x}",
         "put a remark on {x}"),
    ),
    Operation(
        "clip", "Clip", "Stores a file with the row.", ANY_RECORD, "attachment",
        ("attach the file to {x}", "upload a document to {x}", "add the screenshot to {x}", "put the PDF with {x}",
         "hang the scan on {x}"),
    ),
    Operation(
        "split", "Split", "Creates child tasks.", (CASE, MONEY), "subtasks",
        ("break {x} into smaller pieces", "create to-dos under {x}", "share {x} out among several people",
         "make subtasks for {x}", "carve {x} up"),
    ),
    Operation(
        "bump", "Bump", "Raises the priority by one level.", (CASE, MONEY), "urgent",
        ("escalate {x}", "make {x} more urgent", "move {x} up the queue", "turn up the priority of {x}",
         "push {x} to the front"),
    ),
    Operation(
        "mirror", "Mirror", "Copies the row to a connected system.", ANY_RECORD, "sync",
        ("sync {x} with the partner system", "copy {x} over to the other platform",
         "keep {x} the same on both sides", "send {x} across to the outside system", "replicate {x} elsewhere"),
    ),
    Operation(
        "score", "Score", "Computes the risk figure.", ANY_RECORD, "risk",
        ("work out how risky {x} is", "calculate a risk value for {x}", "rate the danger of {x}",
         "assess {x} automatically", "put a number on the hazards of {x}"),
    ),
    Operation(
        "mask", "Mask", "Replaces personal data by placeholders.", ANY_RECORD, "anonymous",
        ("strip names and addresses from {x}", "anonymise {x}", "blank out private details in {x}",
         "make {x} GDPR-safe", "hide who is behind {x}"),
    ),
)  # fmt: skip

# `house` is the method and the path below the collection.
ENDPOINTS = (
    Operation(
        "list", "GET ", "Returns one page of rows; cursor in the header.", ANY_RECORD, "paginate",
        ("page through {xs}", "walk over all {xs} in chunks", "show the first hundred {xs} and then the next",
         "loop over {xs}"),
    ),
    Operation(
        "read", "GET /{id}", "Returns one row.", ANY_RECORD, "by id",
        ("load one particular {s}", "show {a} when I only have its id", "fetch a single {s}", "pick out one {s}"),
    ),
    Operation(
        "create", "POST ", "Inserts one row.", ANY_RECORD, "create",
        ("add {a} from my script", "create {a}", "submit {a} from an outside app", "file {a} programmatically"),
    ),
    Operation(
        "amend", "PATCH /{id}", "Writes the given columns, leaves the rest.", ANY_RECORD, "modify",
        ("edit one value of {a}", "modify {a} without resending everything", "set a column on {a}", "adjust {a}"),
    ),
    Operation(
        "erase", "DELETE /{id}", "Takes the row out; irreversible after 30 days.", ANY_RECORD, "remove",
        ("delete {a}", "get rid of {a}", "remove {a}", "wipe {a}"),
    ),
    Operation(
        "batch", "POST /batch", "Accepts up to 5,000 rows as an asynchronous job.", ANY_RECORD, "bulk",
        ("load thousands of {xs} in one go", "mass-upload {xs}", "push a whole pile of {xs} with one call",
         "bulk-insert {xs}"),
    ),
    Operation(
        "dump", "GET /dump", "Streams a flat file.", ANY_RECORD, "csv",
        ("export {xs} to CSV", "take {xs} out as a spreadsheet", "hand all {xs} to the analysts in Excel",
         "save {xs} as comma-separated text"),
    ),
    Operation(
        "tally", "GET /tally", "Aggregates on the server.", ANY_RECORD, "count",
        ("count {xs}", "know how many {xs} there are without fetching them", "group {xs} and add them up",
         "get totals of {xs}"),
    ),
    Operation(
        "clips", "POST /{id}/clips", "Takes a multipart file.", ANY_RECORD, "upload",
        ("upload a file to {a}", "attach a PDF to {a}", "send a picture along with {a}", "put a document on {a}"),
    ),
    Operation(
        "stamps", "POST /{id}/stamps", "Appends to the journal.", ANY_RECORD, "comment",
        ("post a comment on {a}", "add a note to {a}", "write a remark under {a}", "leave a message on {a}"),
    ),
    Operation(
        "verdict", "POST /{id}/verdict", "Takes yes or no with a reason.", _LIFE_CYCLE, "approve",
        ("approve or reject {a}", "record a manager's okay on {a}", "let my app decide on {a}",
         "sign {a} off remotely"),
    ),
    Operation(
        "hooks", "POST /hooks", "Registers a callback address.", ANY_RECORD, "webhook",
        ("be called back when {a} changes", "get a webhook for {xs}", "stop polling for news about {xs}",
         "be pushed events on {xs}"),
    ),
    Operation(
        "trail", "GET /{id}/trail", "Returns former values with author and time.", ANY_RECORD, "history",
        ("see who edited {a}", "get the change history of {a}", "know what {a} looked like before",
         "audit old versions of {a}"),
    ),
    Operation(
        "twin", "POST /{id}/twin", "Makes a second row with the same values.", ANY_RECORD, "copy",
        ("duplicate {a}", "clone {a}", "use an existing {s} as the template for another", "make a copy of {a}"),
    ),
    Operation(
        "revive", "POST /{id}/revive", "Puts a row back from the bin.", ANY_RECORD, "undelete",
        ("bring back a deleted {s}", "undo the removal of {a}", "recover {a} thrown away by mistake", "undelete {a}"),
    ),
    Operation(
        "fuse", "POST /fuse", "Leaves one row where two were.", (CASE, ASSET), "merge",
        ("merge two {xs}", "combine duplicate {xs}", "fold one {s} into another", "turn double {xs} into one"),
    ),
    Operation(
        "shape", "GET /shape", "Returns the column definitions.", ANY_RECORD, "schema",
        ("know which fields {a} has", "get the schema of {xs}", "discover what attributes {xs} can have",
         "read the data model behind {xs}"),
    ),
    Operation(
        "dry", "POST /dry", "Checks a payload, stores nothing.", ANY_RECORD, "validate",
        ("check {a} without saving it", "validate the payload for {a}", "see whether {a} would be accepted",
         "rehearse the creation of {a}"),
    ),
)  # fmt: skip
