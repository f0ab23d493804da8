"""Information technology: the department that is trained on."""

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
        "Incident", "inc", CASE, "unplanned interruption of a running service",
        ("outage", "breakdown ticket", "INC", "service disruption", "downtime report"),
        (
            attribute("imp_cnt", "Users affected", "how many people {x} hits", "how widely {x} is felt"),
            attribute(
                "rst_dt", "Service restored",
                "when things worked again after {x}", "from when users were fine after {x}",
            ),
            attribute("wka_txt", "Workaround", "how people can get by despite {x}", "the stopgap offered for {x}"),
        ),
    ),
    Record(
        "Problem", "prb", CASE, "underlying cause of repeated failures",
        ("root-cause investigation", "recurring fault", "PRB", "repeat failure", "chronic bug"),
        (
            attribute("rca_txt", "Root cause", "why {x} keeps coming back", "what is really behind {x}"),
            attribute("ker_flg", "Known error", "whether we already know {x}", "if {x} is an old acquaintance"),
            attribute("rcr_cnt", "Recurrences", "how many times {x} has struck", "how often we met {x} so far"),
        ),
    ),
    Record(
        "Change Request", "chg", CASE, "planned modification of a production environment",
        ("CR", "RFC", "production tweak", "planned alteration", "infrastructure modification"),
        (
            attribute("bko_txt", "Backout plan", "how to undo {x} if it goes wrong", "the way back should {x} fail"),
            attribute("wnd_dt", "Implementation window", "the night {x} is allowed to happen", "the slot kept for {x}"),
            attribute("emg_flg", "Emergency", "whether {x} skips the usual board", "if {x} can't wait for the CAB"),
        ),
    ),
    Record(
        "Service Request", "srq", CASE, "standard demand of a user, fulfilled from stock",
        ("portal order", "fulfilment ticket", "SR", "user ask", "thing ordered in the shop"),
        (
            attribute("itm_cnt", "Items", "how many pieces {x} contains", "the number of things in {x}"),
            attribute("dlv_dt", "Delivered", "when {x} was handed over", "the day {x} landed on the desk"),
            attribute("ben_by", "Beneficiary", "who {x} is really for", "the person that gets what is in {x}"),
        ),
    ),
    Record(
        "Access Grant", "acg", CASE, "privilege of an identity on a target system",
        ("permission", "login right", "authorisation", "account privilege", "system entitlement"),
        (
            attribute("rol_ref", "Role", "what {x} lets somebody do", "the powers that come with {x}"),
            attribute("rvk_dt", "Revoked", "when {x} was taken away", "since when {x} is gone"),
            attribute(
                "sod_flg", "Duty conflict", "whether {x} clashes with another role", "if {x} gives too much power",
            ),
        ),
    ),
    Record(
        "Release Package", "rlp", CASE, "bundle of tested builds brought to production together",
        ("software launch", "version rollout", "deployment", "go-live", "new build"),
        (
            attribute("ver_txt", "Version", "which number {x} carries", "how {x} is called, like 4.2"),
            attribute("tst_pct", "Test coverage", "how much of {x} was tried out", "how well checked {x} is"),
            attribute("rbk_flg", "Rolled back", "whether {x} had to be undone", "if we went back after {x}"),
        ),
    ),
    Record(
        "Compute Host", "cph", ASSET, "physical or virtual node that runs workloads",
        ("server", "VM", "box in the data centre", "machine in the rack", "node"),
        (
            attribute("ram_cnt", "Memory size", "how many gigs {x} has", "the RAM built into {x}"),
            attribute("osv_txt", "Operating system", "what Linux or Windows runs on {x}", "the OS of {x}"),
            attribute("rak_txt", "Rack slot", "where in the cage {x} stands", "which shelf holds {x}"),
        ),
    ),
    Record(
        "Workstation", "wks", ASSET, "personal computing unit issued to staff",
        ("laptop", "notebook", "PC", "staff computer", "desktop machine"),
        (
            attribute("wty_dt", "Warranty end", "until when the maker fixes {x} for free", "when cover for {x} stops"),
            attribute("ser_txt", "Serial number", "the number engraved under {x}", "how the maker identifies {x}"),
            attribute("enc_flg", "Disk encryption", "whether {x} is safe if stolen", "if {x} has a scrambled drive"),
        ),
    ),
    Record(
        "Mobile Handset", "mob", ASSET, "telephone with a company subscription",
        ("phone", "cell", "smartphone", "work mobile", "company phone"),
        (
            attribute("sim_txt", "Subscriber identity", "which SIM sits in {x}", "the chip card inside {x}"),
            attribute("dat_cnt", "Data allowance", "how many gigabytes {x} may use", "the traffic included for {x}"),
            attribute("mdm_flg", "Managed", "whether we can wipe {x} from afar", "if {x} is under our control"),
        ),
    ),
    Record(
        "Network Element", "nwe", ASSET, "active component that forwards traffic",
        ("switch", "router", "access point", "piece of network gear", "wifi box"),
        (
            attribute("ipa_txt", "Management address", "under which IP we reach {x}", "the address to log on to {x}"),
            attribute("frm_txt", "Firmware", "what software level {x} is on", "the code flashed onto {x}"),
            attribute("prt_cnt", "Ports", "how many cables fit {x}", "the sockets on {x}"),
        ),
    ),
    Record(
        "Business Application", "bap", ASSET, "software product that supports a process",
        ("app", "program", "software tool", "business system", "piece of software we run"),
        (
            attribute("usr_cnt", "Active users", "how many folks log on to {x}", "how popular {x} is"),
            attribute("rto_cnt", "Recovery target", "how long we can live without {x}", "how fast {x} must be revived"),
            attribute("eos_dt", "End of support", "when the maker drops {x}", "from when nobody patches {x}"),
        ),
    ),
    Record(
        "Database Instance", "dbi", ASSET, "running engine with its schemas",
        ("DB", "data store", "SQL box", "schema", "backend database"),
        (
            attribute("siz_cnt", "Allocated storage", "how much room {x} takes", "the terabytes behind {x}"),
            attribute("eng_cd", "Engine", "what product {x} is built on", "the vendor technology in {x}"),
            attribute("rpl_flg", "Replicated", "whether {x} has a live copy", "if a twin of {x} is running"),
        ),
    ),
    Record(
        "Licence Entitlement", "lic", PAPER, "right to use a software title",
        ("software seat", "licence key", "subscription seat", "user licence", "right to run a program"),
        (
            attribute("sea_cnt", "Seats bought", "how many people may share {x}", "the headcount {x} is good for"),
            attribute("met_cd", "Metric", "what {x} is counted by", "per core or per user for {x}"),
            attribute("ttl_ref", "Title", "which program {x} unlocks", "the product {x} was bought for"),
        ),
    ),
    Record(
        "Trust Certificate", "tcr", PAPER, "signed key pair that proves the identity of an endpoint",
        ("TLS cert", "SSL certificate", "HTTPS padlock file", "encryption cert", "PKI file"),
        (
            attribute("dom_txt", "Common name", "which web address {x} protects", "the host {x} stands for"),
            attribute("iss_ref", "Issuer", "what authority vouches for {x}", "what body issued {x}"),
            attribute("key_cnt", "Key length", "how many bits {x} has", "how strong {x} is"),
        ),
    ),
    Record(
        "Backup Job", "bkj", ASSET, "recurring copy of data to a second place",
        ("nightly copy", "safety copy", "restore point", "snapshot run", "dump schedule"),
        (
            attribute("ret_cnt", "Generations kept", "how far back {x} goes", "the number of days {x} covers"),
            attribute("suc_flg", "Last outcome", "whether {x} worked last night", "if {x} finished last night"),
            attribute("vlt_ref", "Vault", "where {x} puts the tapes", "the place {x} writes to"),
        ),
    ),
    Record(
        "Security Finding", "sfd", CASE, "weakness detected by a scan or test",
        ("vulnerability", "CVE hit", "weak spot", "pen-test result", "hole in our defences"),
        (
            attribute("cvs_cnt", "Severity score", "how bad {x} is from 0 to 10", "the CVSS of {x}"),
            attribute("xpl_flg", "Exploited", "whether hackers already use {x}", "if {x} is abused in the wild"),
            attribute("scn_ref", "Scanner", "which tool spotted {x}", "where {x} was picked up from"),
        ),
    ),
    Record(
        "Firewall Rule", "fwr", PAPER, "permitted path between two network zones",
        ("port opening", "network permit", "ACL entry", "packet filter line", "traffic allowance"),
        (
            attribute("src_txt", "Origin zone", "where traffic under {x} starts", "the near end of {x}"),
            attribute("dst_txt", "Target zone", "where traffic under {x} may go", "the far end of {x}"),
            attribute("pro_cd", "Protocol", "whether {x} is TCP or UDP", "the kind of packets {x} lets in"),
        ),
    ),
    Record(
        "On-call Duty", "ocd", MASTER, "period in which an engineer answers emergencies",
        ("standby shift", "rota slot", "night watch", "emergency slot", "stand-by turn"),
        (
            attribute("fst_by", "Primary responder", "who gets rung first during {x}", "the pager carrier in {x}"),
            attribute("bkp_by", "Second responder", "who steps in if nobody picks up in {x}", "the fallback for {x}"),
            attribute("cal_cnt", "Calls taken", "how many times people were woken in {x}", "how busy {x} was"),
        ),
    ),
    Record(
        "Cloud Subscription", "cls", MONEY, "billed account with a hosting provider",
        ("cloud account", "tenant", "hosting bill", "rented server farm", "hyperscaler account"),
        (
            attribute("reg_cd", "Region", "on which continent {x} runs", "what data-centre area {x} uses"),
            attribute("lim_amt", "Spending cap", "how far {x} may go before it is cut", "the ceiling set on {x}"),
            attribute("tag_txt", "Tags", "the labels people put on {x}", "how {x} is marked for chargeback"),
        ),
    ),
    Record(
        "Data Feed", "dfd", ASSET, "scheduled transfer between two systems",
        ("interface", "file transfer", "integration pipe", "ETL load", "import stream"),
        (
            attribute("frq_cd", "Frequency", "how often {x} fires", "the rhythm of {x}"),
            attribute("row_cnt", "Last row count", "how many lines {x} brought", "the size of {x} on its last trip"),
            attribute("err_txt", "Last error", "what {x} tripped over", "the message {x} died with"),
        ),
    ),
    Record(
        "Monitoring Event", "mev", CASE, "signal that a measured value left its range",
        ("alarm", "alert", "threshold warning", "health-check failure", "red light on the wall screen"),
        (
            attribute("mtr_ref", "Metric", "which measured thing set off {x}", "the gauge behind {x}"),
            attribute("sup_flg", "Suppressed", "whether {x} was muted", "if somebody silenced {x}"),
            attribute("dup_cnt", "Repeats", "how many identical ones {x} stands for", "how noisy {x} was"),
        ),
    ),
    Record(
        "Hardware Order", "hwo", MONEY, "purchase of equipment for stock or staff",
        ("kit purchase", "equipment buy", "device order", "gear shipment", "new-device basket"),
        (
            attribute("qty_cnt", "Quantity", "how many units {x} covers", "the number of boxes in {x}"),
            attribute(
                "eta_dt", "Expected arrival", "when the truck with {x} should be here", "the promised day for {x}",
            ),
            attribute("mdl_ref", "Model", "what type of device {x} is about", "the make chosen in {x}"),
        ),
    ),
    Record(
        "Runbook", "rbk", PAPER, "written procedure for operators",
        ("operating procedure", "ops manual", "playbook page", "how-to for operators", "emergency step list"),
        (
            attribute("svc_ref", "Service covered", "which system {x} explains", "the thing one can rescue with {x}"),
            attribute("rev_dt", "Last review", "when somebody last proofread {x}", "how fresh {x} is"),
            attribute("aut_pct", "Automated share", "how much of {x} runs by itself", "the part of {x} nobody types"),
        ),
    ),
    Record(
        "Project Demand", "dmd", MONEY, "proposal that asks for funds and people",
        ("project pitch", "funding proposal", "initiative", "business ask", "idea for a project"),
        (
            attribute("ben_amt", "Expected benefit", "what we hope to earn with {x}", "the payoff promised by {x}"),
            attribute("spo_by", "Sponsor", "which executive champions {x}", "the big name that fights for {x}"),
            attribute("fte_cnt", "Effort", "how many people {x} would tie up", "the staffing {x} calls for"),
        ),
    ),
)  # fmt: skip

LINKS = (
    ("inc", "cph"), ("inc", "bap"), ("prb", "inc"), ("chg", "cph"), ("chg", "bap"), ("rlp", "bap"), ("sfd", "cph"),
    ("sfd", "bap"), ("lic", "wks"), ("tcr", "cph"), ("bkj", "dbi"), ("mev", "nwe"), ("dfd", "dbi"), ("rbk", "bap"),
    ("acg", "dbi"), ("hwo", "mob"), ("cls", "dmd"), ("fwr", "nwe"), ("ocd", "inc"), ("srq", "hwo"),
)  # fmt: skip

SERVICES = (
    Service("Portable Workstation", GEAR, ("laptop", "notebook", "work computer", "machine", "Featherbook")),
    Service("Display Unit", GEAR, ("screen", "monitor", "second screen", "flat panel")),
    Service("Mobile Handset", GEAR, ("phone", "cell", "smartphone", "work mobile")),
    Service("Audio Headset", GEAR, ("headphones set", "earpiece", "call headset", "pair of headphones")),
    Service("Docking Cradle", GEAR, ("dock", "docking station", "port replicator", "USB-C hub")),
    Service("Document Printer", GEAR, ("printer", "MFP", "copier", "print machine")),
    Service("Slate Computer", GEAR, ("tablet", "pad", "touch device", "drawing tablet")),
    Service("Conference Camera", GEAR, ("webcam", "video cam", "cam for calls", "meeting camera")),
    Service("Tunnelgate Remote Access", ACCESS, ("the VPN", "Tunnelgate", "remote login", "the home-office tunnel")),
    Service("Postroom Shared Mailbox", ACCESS, ("the team inbox", "Postroom", "our group email", "the shared mail")),
    Service("Codeyard Repository", ACCESS, ("Codeyard", "the git server", "our source code", "the repo")),
    Service("Lakehall Warehouse", ACCESS, ("Lakehall", "the data lake", "the DWH", "the analytics store")),
    Service("Murmur Messaging", ACCESS, ("Murmur", "the chat tool", "team chat", "our instant messenger")),
    Service("Stackyard Console", ACCESS, ("the cloud portal", "Stackyard", "the hosting console", "our cloud tenant")),
    Service("Elevated Local Privilege", ACCESS, ("admin mode", "local admin", "the root account", "the admin account")),
    Service(
        "Departmental File Share", ACCESS, ("the S drive", "the network drive", "our shared folder", "the team disk"),
    ),
    Service("Software Subscription", ALLOWANCE, ("a software licence", "a licence", "a paid app", "a program seat")),
    Service("Cloud Credit", ALLOWANCE, ("hosting money", "cloud budget", "compute credits", "my sandbox funds")),
    Service(
        "Mobile Data Plan", ALLOWANCE, ("a roaming pack", "mobile data", "gigabytes for my phone", "my data volume"),
    ),
    Service("Mailbox Quota", ALLOWANCE, ("inbox space", "room for mails", "mail storage", "a bigger inbox")),
    Service("Standby Allowance", ALLOWANCE, ("on-call pay", "pager money", "night duty pay", "stand-by bonus")),
    Service("Test Environment", ALLOWANCE, ("a sandbox", "a staging system", "a playground server", "a QA stack")),
    Service("Conference Bridge", ALLOWANCE, ("a webinar room", "a dial-in", "a big video call", "a broadcast slot")),
    Service("Server Certificate", DEED, ("TLS cert", "SSL file", "HTTPS cert", "padlock for our site")),
    Service("Name Service Entry", DEED, ("DNS record", "hostname", "subdomain", "web address")),
    Service("Firewall Exemption", DEED, ("port opening", "firewall hole", "network permit", "allow-list line")),
    Service("Security Assessment", DEED, ("pen test", "security check", "hack test", "risk sign-off for an app")),
    Service("Data Extract", DEED, ("CSV export", "data pull", "SQL dump", "list from the database")),
    Service("Recovery Point", DEED, ("restored file", "backup copy", "old version", "undeleted folder")),
    Service(
        "Architecture Opinion", DEED, ("design review", "solution sketch check", "architect's view", "tech blessing"),
    ),
)  # fmt: skip

IT = Department("IT", "it", RECORDS, LINKS, SERVICES)
