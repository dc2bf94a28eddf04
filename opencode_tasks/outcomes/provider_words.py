"""Words of providers that are about the account, the limit, the model or the content. Pure.

A pattern must not match what a prompt may say by chance, and its search must take linear time: no
repetition inside a repetition.
"""

from __future__ import annotations

import re
from typing import Final


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


GONE: Final = _any_of(
    (
        r"\b(?<!by the )models?\b(?! (output|response|answer))(?:(?![.:;,]\s).){0,120}\b"
        r"(not found|(does|do)? ?not exist|doesn't exist|not available|not supported|no longer|deprecated"
        r"|retired|decommissioned|removed|shut down|end of (its )?life|(is|are|been) disabled)"
    ),
    r"\b(no such|unknown|unsupported|invalid) model\b(?! (parameter|output|response))",
    r"\bon-demand throughput isn.t supported|\bmodel identifier is invalid|\bnot accessible via the /",
    (
        r"\bno (available )?(channel|endpoint|deployment|provider)s?\b.{0,40}\b(for|found|matching)\b"
        r"(?! that support (image|audio|video|file|pdf))"
    ),
    r"\bnot a valid model\b|\bhas no provider\b|^model disabled\b",
)
SPENT: Final = _any_of(
    r"insufficient (account )?(balance|credits?|funds)",
    r"\b(credit|account) balance is (too low|insufficient|empty|negative|exhausted)",
    r"requires (more|additional) credits",
    r"\b(out of|no (remaining|available)|not enough) credits?\b|\bout of (free )?quota\b",
    r"\bno payment method\b",
    r"(used|exhausted) all (of )?(the |your )?(available |remaining )?credits",
    r"\b(monthly|spend|spending|credit) (limit|cap|budget)\b.{0,40}\b(reached|exceeded|exhausted)",
    (
        r"(reached|exceeded|hit) (its|your|the|their|an?) (\w+ ){0,4}"
        r"(spend|spending|credit|cost|budget) (limit|cap|budget)s?"
    ),
    r"regain access on|\busage limit for this billing cycle",
    r"\bdoesn.t have any credits\b|\bvalid credit card on file\b",
    r"\bsuspended, possibly due to reaching",
    r"\bfree quota has been exhausted\b|\brequires a subscription\b|额度(不足|已用尽)|余额不足|套餐已到期",
    r"suspended due to insufficient",
    r"(please |need to )(recharge|top.?up)\b",
    r"\b(key|guardrail|workspace|member) limit exceeded|\bexhausted usage limits?\b",
    r"\b(?<!thinking )budget (has been )?exceeded",
    r"\bexceeded ?(?!thinking)(\w+ )?budget|\bover budget\b|\bexceeded your (free )?(trial )?credits\b",
    r"\b(not|n.t) have (sufficient|enough|any) (balance|credits?|funds|points)\b|\bhas no credits\b",
    r"credits? (are|is|have been|has been) (depleted|exhausted|used up)",
    r"\bbilling (hard )?limit\b",
    r"\bbilling (is )?(not active|inactive|disabled)|\bpayment (is )?required\b",
    r"\bin arrears\b|\b(account|payment|invoice|bill)s? .{0,20}\boverdue\b",
    r"\bfree (trial|credits?) (has|have) (ended|expired)|\benable billing on\b|\bno quota left\b",
    r"\bsubscription (is |has )?(expired|inactive|required|ended)",
)
BAD_KEY: Final = _any_of(
    (
        r"(incorrect|invalid|expired|revoked|missing|unknown|malformed|wrong) "
        r"(or (missing|expired|invalid) )?(api[ _-]?keys?|x-api-key|access (key|token)|"
        r"(auth\w* |bearer |security |session |access )tokens?\b|credentials?)"
    ),
    (
        r"\b(api[ _-]?key|access token)\b.{0,30}"
        r"\b(not valid|invalid|expired|not found|missing|disabled|revoked|incorrect)"
    ),
    (
        r"\b(?<!special )(token|key|credentials?)\b.{0,20}\b(has|have|is|are|was) (been )?"
        r"(expired|revoked|disabled|deleted)"
    ),
    r"^invalid token\.?$|\bcredential is only authorized for",
    r"\bauthentication (failed|error|required)|\bnot authenticated|^unauthorized\b|\blogin (has )?expired",
)
FILTERED: Final = _any_of(
    r"content (management|moderation|safety|usage|filter(ing)?) (polic|system)",
    (
        r"(blocked|filtered|rejected|flagged) (by|as|for|due to) .{0,60}"
        r"(content (policy|filter|moderation|safety)|safety|moderation|guardrail|filter|violat)"
    ),
    (
        r"\b(prompt|input|content|output|completion)s? (pattern )?(was|were|has been|is|may be) "
        r"(blocked|flagged|filtered)"
    ),
    r"\b(output|input|prompt|content|response) blocked\b|\bthreat detected\b",
    r"\blimited access to this content\b|\bfor safety reasons\b",
    r"\brequires moderation\b|\bviolat\w+ .{0,40}(usage|content|safety) (guidelines|polic\w+)",
    r"violated? (our |the )?(usage |content )?(policy|policies|guidelines)",
    r"\bprohibited due to a violation of provider|敏感信息|\bcontent exists risk\b",
    r"\bcontent\b.{0,60}\b(is|was|are|were|has been) (blocked|flagged|filtered)|\bprohibited content\b",
    r"\b(content|input|output) (audit|review|inspection|moderation) fail",
    r"\binappropriate content\b|\bsensitive (content|information|words?)\b",
    r"\bguardrail\b.{0,60}\b(block|interven|violat|fail|trigger|reject)",
    r"\b(block|interven|violat|fail|trigger|reject)\w*\b.{0,40}\bguardrail",
    r"SAFETY_CHECK_TYPE|guardrail_(triggered|intervened|blocked|violat)",
    r"\bblocked (input|prompt|content|output|completion)\b|\bprompt doesn.t match any allowed pattern",
    r"\bfail(s|ed)? (the |a )?(content )?(safety|moderation) (check|filter)",
)
TOO_LONG: Final = _any_of(
    r"maximum (supported |total |allowed )?(context|prompt|input|model|sequence) length",
    r"\b(input|prompt|total)( \w+)? tokens?\b.{0,30}\b(cannot|can't|must not|may not) exceed",
    (
        r"\b(prompt|input)[ _](\w+ )?(length|tokens?)\b.{0,40}"
        r"\b(less than|greater than|longer than|larger than|exceeds?|not exceed)\b"
    ),
    r"\b(input|prompt|context) token limit\b|\btoken count exceeds\b",
    r"\bcontext[ _-]?(length|window|size|limit)\b.{0,60}\b(exceed|too|greater|larger|limit|overflow)",
    (
        r"(exceed(?:s|ed|ing)?\b|larger than|longer than|greater than) .{0,60}"
        r"\bcontext(?![=_]|\.\w)([ _-]?(length|window|size|limit))?\b"
    ),
    r"\b(prompt|input|request|message)s?( text)? (is|are) too (long|large)",
    r"\b(text|prompt|input) too long\b",
    r"\b(prompt|input)( token)?s?( token)? count .{0,30}exceeds",
    r"\btoo many (input |prompt )?tokens\b(?!, please wait)",
    r"exceeds the maximum number of (input )?tokens",
    r"\breduce the length of (the |your )?(messages?|prompt|input|either|chat)\b",
    r"\bmodel token limit\b|\brange of input length\b",
    r"\b(prompt|input)( length)?( \d+)? exceeds (the )?max\w* length",
    r"`inputs` (tokens \+|must have less than)|\bkeep the first \d+ tokens|\breached context length of",
    r"\bpayload size exceeds|\bcontent.{0,4}: string too long",
    r"\brequest( body| entity)? (is )?too large\b|\bn_ctx\b|\bnumber of tokens to keep\b",
)
LIMITED: Final = _any_of(
    r"\brate[ _-]?limit|\btoo many (concurrent )?requests\b|\bthrottl",
    r"\bquota\b.{0,40}\bexceeded|\bexceeded\b.{0,40}\bquota\b|\busage limit\b.{0,20}\breached",
    r"\b(requests|tokens) per (second|minute|hour|day)\b|\b(request|usage|token)s? limit (reached|exceeded)",
)
BUSY: Final = _any_of(
    r"\boverload|\b(at|over) capacity\b|\bloading model\b|\bmodel is (currently )?loading\b|\bbusy\b",
)
NO_LOGIN: Final = _any_of(
    r"^(\w+ )?token refresh failed|^failed to refresh\b|\binvalid_grant\b|^oauth .{0,40}(failed|expired)",
    r"^no (api key|credentials|login) (found|configured)|\bapi key is missing\b",
    r"^could not resolve authentication|^[\w ]{1,40}: missing credentials\b",
    r"^(aws )?(credential provider|credentials?) .{0,60}(failed|missing|not found|expired)",
)
# The server that refreshes a login failed, not the login.
NO_REFRESH_NOW: Final = _any_of(r"^(\w+ )?token refresh failed\W{1,3}(429|5\d\d)\b")
REGION: Final = _any_of(r"\b(?<!\ba )(location|region|country)\b.{0,30}\bnot supported")
LIMITED_AT_START: Final = _any_of(r"^(?:\w+\W+){0,4}rate limit")
LIMITED_AS_REFUSED: Final = _any_of(r"^(?:\w+\W+){0,4}(?:rate[ -]?limit|too many (\w+ )?requests)\b")
SPENT_AT_GOOGLE: Final = _any_of(
    r"\b(prepay\w*|prepaid) credits?\b.{0,30}\b(depleted|exhausted|used)",
    r"\bspend(ing)? cap\b",
)
NO_QUOTA: Final = _any_of(r"\blimit: 0(?![\d.,]\d)", r"\bdoesn.t have a free quota tier\b")
PAYMENT: Final = _any_of(r"payment[ _]instrument")
EXTRA_USAGE: Final = _any_of(
    r"\bextra usage\b",
    r"\bspend limit\b",
    r"^free credits temporarily have restricted",
    r"\bnot (yet )?available for (this|your) subscription\b",
)
QUOTA_OF_PLAN: Final = _any_of(r"\bquota will (reset when|be (refreshed when|replenished in))")
QUOTA_AT_ALIBABA: Final = _any_of(r"#token-limit", r"\ballocated quota exceeded")
DISABLED_ACCOUNT: Final = _any_of(
    (
        r"\b(account|organization|access(?! to (the |this )?(file|document|image|page|url))|project)\b.{0,30}"
        r"\b(disabled|banned|terminated|restricted)\b"
    ),
)
# What the account or the client must do before any request is served.
NOT_ADMITTED: Final = _any_of(
    r"\borganization must be verified\b|\borganization policy constraint\b|^operation not allowed\b",
    r"\bmissing editor-version header\b",
)
# A model that is away, not gone.
AWAY: Final = _any_of(
    r"\btemporar(y|ily) (\w+ )?(unavailable|not available|down|offline|disabled|out of service)",
    r"\b(unavailable|not available|offline) (right now|at the moment|at this time|temporarily)\b",
    r"\b(unavailable|not available)\b.{0,60}\b(try again|retry) (later|in (a few|\d+)|shortly|soon)",
)
# The request has something that the model does not take; another row may not have it.
ONE_ROW: Final = _any_of(
    r"\bthat support (image|audio|video|file|pdf)",
    r"\bfile\b.{0,60}\bnot found",
    r"\bwith id .{0,80}not found",
)
QUOTA_USED: Final = _any_of(
    r"^quota exceeded|\b(used|exhausted) (all of )?(your|the) (\w+ )?quota\b",
    r"\b(hourly|daily|weekly|monthly) (\w+ )?(quota|limit)\b|\btoo many (\w+ )?requests\b",
    r"\b(rate|usage|requests?|tokens?|api)[ _-](limit|quota)s?\b.{0,40}\b(reached|exceeded)",
    r"\b(reached|exceed(s|ed|ing)?|hit) .{0,30}\b(rate|usage|requests?|tokens?|api)[ _-]limits?\b",
    r"\bquota (has been |was |is )?exceeded|\bexceeded .{0,30}\bquota\b(?!.{0,40}\bbilling)",
)
# Of a refusal that says when to try again.
LIMITED_FOR_A_TIME: Final = _any_of(
    r"\b(limit|quota|throttl|abuse detection|too many|too fast|slow down|please wait|concurren)"
)
WRONG_ADDRESS: Final = _any_of(
    r"\bHTTP request (was sent )?to (an )?HTTPS (port|server)\b",
    r"\binvalid host(name| header)\b|^could not route to /",
)
NO_CERTIFICATE: Final = _any_of(r"\bno required SSL certificate\b|\bthe SSL certificate error\b")
# Words of Cloudflare and other firewalls for a client that they take for a robot.
CHALLENGE: Final = _any_of(
    r"\bjust a moment\b|\bchecking your browser\b|\benable javascript and cookies\b|\bddos[- ]protection\b"
)
FIREWALL: Final = _any_of(
    r"^error code: 10[0-9]{2}$",
    r"\b(blocked|denied|forbidden) by (the |an? |our )?(\w+ )?(egress|proxy|firewall|network|waf)\b",
)
# Features that the settings of a run ask for, and so every row.
NO_FEATURE: Final = _any_of(
    r"\b(does not|doesn.t) support (tools?|tool (use|calls?|calling|choice)|function calling|thinking"
    r"|reasoning|streaming|system (prompt|message|instruction)s?)\b"
    r"|\bdoes not work with the specified model\b|\btool choice requires --"
)
FILE_TYPE: Final = _any_of(r"\b(image|audio|video|file|pdf|document)\b")
NOT_LOADED: Final = _any_of(
    r"\b(failed|unable|could not|cannot|error)( to)? load(ing)? (the )?model\b"
    r"|\bno models? (is |are )?loaded\b|\bmodel (failed to load|loading was stopped)"
)
LOST_MODEL: Final = _any_of(r"\bmodel (has )?(crashed|unloaded)", r"^degraded function cannot be invoked")
# Machine-readable values by their words, without separators: ``NOT_ENOUGH_BALANCE``, ``AccountOverdue``.
FILTER_CODE: Final = _any_of(
    r"sensitive(content|word)|censor|content(filter|policy|moderation|safety|blocked)|dat(a|um)inspection"
    r"|guardrail|promptthreat|promptinjection|jailbreak|moderation(blocked|error|failed|flagged)|hooksfailed"
    r"|safety(violation|block|error)|prohibitedcontent|(prompt|input|output|response)blocked"
)
SPENT_CODE: Final = _any_of(
    r"(insufficient|notenough|low|negative|zero|no)(account|user|token|prepaid)?(balance|credits?|funds?)"
    r"|balance(exhausted|insufficient|toolow|depleted|notenough)|credits?(exhausted|depleted|insufficient)"
    r"|insufficientquota|arrear|overdue|(resource)?(pack|package)(exhausted|expired|usedup)|paymentrequired|paymentmethod|outofcredit|setlimitexceeded|tokenquotareached"
    r"|(spend|spending|budget|cost|credit)(limit|cap)?(exceeded|reached|exhausted)|^(budget|spend)limit$"
    r"|billing(hard)?(limit|disabled|inactive|notactive|required)|subscription(expired|required|inactive)"
)
TOO_LONG_CODE: Final = _any_of(
    r"context(length|window|size|limit)\w*(exceed|overflow|toolong)|exceed\w*context"
    r"|(prompt|input|request|message)s?(is)?too(long|large)|(prompt|input)\w*(length|tokens)exceed"
)
MODEL_CODE: Final = _any_of(
    r"model(is)?not(found|exists?|available|supported|open|deployed|allowed|enabled)"
    r"|(unknown|unsupported|invalid|nosuch)model(?!(output|response|param|input))"
    r"|model(deprecated|decommissioned|retired|removed|disabled|unavailable)$"
    r"|deploymentnot(found|exist)|endpointormodelnotfound"
)
BAD_KEY_CODE: Final = _any_of(
    r"(invalid|incorrect|missing|expired|wrong|unknown|revoked|blocked|disabled)"
    r"(api|access|auth\w*|oauth|bearer|security)?(key|token|credentials?|signature|iamtoken)$"
    r"|(api|access|auth)?(key|token|credentials?)(is)?(invalid|expired|missing|notfound|revoked|disabled|blocked)"
    r"|account(is)?(deactivated|suspended|locked|disabled|banned|inactive|blocked)"
    r"|(unauthenticated|authenticationfailed|loginfailed|notauthenticated)$"
)
LIMIT_CODE: Final = _any_of(
    r"ratelimit|toomanyrequests|throttl|(rpm|tpm|rpd|tpd|qps|qpm)\w*(limit|exceeded)"
    r"|(requests?|tokens?|daily|hourly|weekly|monthly|usage|account)(quota|limit)(exceeded|reached)"
    r"|quota(exceeded|exhausted|reached)|concurrency(limit)?(exceeded|reached)"
)
IMAGE_CODE: Final = _any_of(
    r"^(invalid|unsupported|empty|failedtodownload)(base64)?image\w*$"
    r"|^image(file)?(parseerror|toolarge|toosmall|notfound|unreadable)$"
)
BUSY_CODE: Final = _any_of(r"overloaded|(capacity|queue)(exceeded|full)|serverbusy|nocapacity")
