"""Answers of providers and their meaning: one table, of which the first rule that matches decides.

The order is: machine-readable values in the body; then such values by their words, for providers that are
not listed; then words of the message that are about the account, the limit, the model or the content, for
the statuses under which a provider sends them; then the HTTP status.
The same table serves a response with an error status, an error inside a stream that began with status 200,
and the failure of a sub-agent. To add an answer of a provider, add a value or words to a rule, or a rule,
and an example to ``tests/provider_answers.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

from opencode_tasks.outcomes.error_message import is_page
from opencode_tasks.outcomes.provider_answer import ProviderAnswer
from opencode_tasks.outcomes.provider_words import (
    AWAY,
    BAD_KEY,
    BAD_KEY_CODE,
    BUSY,
    BUSY_CODE,
    CHALLENGE,
    DISABLED_ACCOUNT,
    EXTRA_USAGE,
    FILE_TYPE,
    FILTER_CODE,
    FILTERED,
    FIREWALL,
    GONE,
    IMAGE_CODE,
    LIMIT_CODE,
    LIMITED,
    LIMITED_AS_REFUSED,
    LIMITED_AT_START,
    LIMITED_FOR_A_TIME,
    LOST_MODEL,
    MODEL_CODE,
    NO_CERTIFICATE,
    NO_FEATURE,
    NO_QUOTA,
    NOT_ADMITTED,
    NOT_LOADED,
    ONE_ROW,
    PAYMENT,
    QUOTA_AT_ALIBABA,
    QUOTA_OF_PLAN,
    QUOTA_USED,
    REGION,
    SPENT,
    SPENT_AT_GOOGLE,
    SPENT_CODE,
    TOO_LONG,
    TOO_LONG_CODE,
    WRONG_ADDRESS,
)

Kind = Literal[
    "authentication_failed",
    "billing_error",
    "rate_limit",
    "invalid_request",
    "context_overflow",
    "content_filter",
    "server_error",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A kind of answer. All conditions that are set must hold.

    Attributes:
        kind: Meaning of the answer.
        what: Description of the answer, for the documentation.
        providers: Who answers so.
        codes: Values of which one is in the body, in lower case; empty for any answer.
        code_words: A pattern that a value in the body has, without separators; None for any answer.
        statuses: HTTP statuses of which one is the answer's; empty for any. 0 is a failed connection.
        words: A pattern that the message matches; None for any message.
        check: A further condition.
        concerns_all_rows: Whether every row of the run would get the same answer.
        may_end: Whether a time in the answer is the end of the failure. Only ``billing_error`` reads it.
        is_overload: Whether the provider says that it has too many requests.
        note: What the message does not say and a person must know; "" for nothing.
        source: Where such an answer is described.
    """

    kind: Kind
    what: str
    providers: str
    codes: frozenset[str] = frozenset()
    code_words: re.Pattern[str] | None = None
    statuses: frozenset[int] = frozenset()
    words: re.Pattern[str] | None = None
    check: Callable[[ProviderAnswer], bool] | None = None
    concerns_all_rows: bool = False
    may_end: bool = True
    is_overload: bool = False
    note: str = ""
    source: str

    def matches(self, answer: ProviderAnswer) -> bool:
        """Whether the rule holds for an answer."""
        return (
            (not self.codes or not self.codes.isdisjoint(answer.codes))
            and (self.code_words is None or answer.has_code(self.code_words))
            and (not self.statuses or answer.status in self.statuses)
            and (self.words is None or answer.says(self.words))
            and (self.check is None or self.check(answer))
        )


def find_rule(answer: ProviderAnswer) -> Rule | None:
    """The first rule that holds for an answer; None if none does."""
    return next((rule for rule in RULES if rule.matches(answer)), None)


def _values(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LIMIT_AND_REQUESTED = re.compile(
    r"(?<!token )\bLimit:? ([\d,]+).{0,40}?\bRequested:? ([\d,]+)", re.IGNORECASE | re.DOTALL
)


def _exceeds_the_whole_limit(answer: ProviderAnswer) -> bool:
    """Whether the request alone is larger than the limit, so that it never fits."""
    found = _LIMIT_AND_REQUESTED.search(answer.message)
    if found is None:
        return False
    limit, requested = (int(number.replace(",", "")) for number in found.groups())
    return requested > limit


def _in_stream(answer: ProviderAnswer) -> bool:
    return answer.failure.in_stream


def _may_be_a_limit(status: int | None) -> bool:
    """Whether a limit may have this status inside a stream, as may numbers that HTTP does not know."""
    return status in (None, 403, 503) or status not in set(HTTPStatus)


def _is_server_fault(answer: ProviderAnswer) -> bool:
    return (answer.status or 0) >= HTTPStatus.INTERNAL_SERVER_ERROR


def _is_about_address(answer: ProviderAnswer) -> bool:
    """Whether an answer refuses the method, protocol or address of a request, and so every request."""
    status = answer.status or 0
    is_redirect = HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST
    return (is_redirect or status in OF_ADDRESS) and not answer.says(FILE_TYPE)


def _is_of_firewall(answer: ProviderAnswer) -> bool:
    """Whether a proxy or a firewall refused the client before the provider saw the request."""
    headers, is_html = answer.failure.headers, is_page(answer.failure.body)
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS or _in_stream(answer):
        return False
    if headers.get("cf-mitigated") == "challenge":
        return True
    if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return is_html and answer.says(CHALLENGE)
    is_refusal = answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    return is_refusal and (is_html or "x-squid-error" in headers or answer.says(FIREWALL))


def _is_html(answer: ProviderAnswer) -> bool:
    return answer.failure.body.lstrip()[:1] == "<"


REFUSED = frozenset({400, 401, 403, 404, 409, 422})
"""Statuses under which providers refuse one request, a key or an account."""
OF_ADDRESS = frozenset({405, 411, 415, 417, 421, 426, 431, 501, 505})
"""Statuses of a request whose method, protocol or headers the server does not take, whatever its text."""
BEFORE_PROVIDER = frozenset({407, 511})
"""Statuses of a proxy or a network that requires a login."""
BROKEN = frozenset({0, 408, 409, 424, 425, 499})
"""A failed connection, and statuses below 500 of requests that may succeed later."""

CHECK_ADDRESS: Final = "check the base URL of the provider"
NOT_THE_KEY: Final = (
    "a proxy or a firewall such as Cloudflare or Zscaler answered, not the provider; the API key may be right"
)

RULES: Final[tuple[Rule, ...]] = (
    # 1. Values in the body that mean one thing only.
    Rule(
        kind="rate_limit",
        what="a quota per minute, under the value of an empty balance",
        providers="Alibaba",
        codes=_values("insufficient_quota"),
        statuses=frozenset({429}),
        words=QUOTA_AT_ALIBABA,
        source="https://github.com/anomalyco/opencode/issues/23722",
    ),
    Rule(
        kind="rate_limit",
        what="the quota of a plan is used up until it is renewed",
        providers="Moonshot, Azure API Management",
        statuses=frozenset({403}),
        words=QUOTA_OF_PLAN,
        source="https://github.com/openclaw/openclaw/issues/142524",
    ),
    Rule(
        kind="billing_error",
        what="the plan does not cover the request, which has to be paid for",
        providers="Anthropic, Vercel",
        statuses=frozenset({400, 403, 429}),
        words=EXTRA_USAGE,
        source="https://github.com/anthropics/claude-code/issues/67939",
    ),
    Rule(
        kind="billing_error",
        what="access to the model ends because it cannot be paid for",
        providers="Bedrock",
        statuses=frozenset({400, 403}),
        words=PAYMENT,
        may_end=False,
        source="https://github.com/Tracer-Cloud/opensre/pull/1812",
    ),
    Rule(
        kind="server_error",
        what="the model failed or is not loaded, under statuses of other failures",
        providers="Bedrock",
        codes=_values("modelerrorexception modelnotreadyexception modeltimeoutexception"),
        source="https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html",
    ),
    Rule(
        kind="billing_error",
        what="no balance, under the status of a server error",
        providers="MiniMax",
        statuses=frozenset({429, 500}),
        words=re.compile(r"\(1008\)"),
        source="https://github.com/MiniMax-AI/MiniMax-M2/issues/62",
    ),
    Rule(
        kind="rate_limit",
        what="a limit, under the status of a server error",
        providers="MiniMax",
        statuses=frozenset({500}),
        words=re.compile(r"\((?:1002|1039|2056)\)"),
        source="https://platform.minimax.io/docs/api-reference/errorcode",
    ),
    Rule(
        kind="content_filter",
        what="the content is refused, under the status of a server error",
        providers="MiniMax",
        statuses=frozenset({500}),
        words=re.compile(r"\((?:1026|1027)\)"),
        source="https://platform.minimax.io/docs/api-reference/errorcode",
    ),
    Rule(
        kind="authentication_failed",
        what="the account is disabled",
        providers="Anthropic, OpenAI",
        statuses=REFUSED | {429},
        words=DISABLED_ACCOUNT,
        source="https://github.com/anthropics/claude-code/issues/19028",
    ),
    Rule(
        kind="authentication_failed",
        what="the account must be verified or permitted, or the client must name itself",
        providers="OpenAI, Google, Bedrock, Copilot",
        statuses=REFUSED,
        words=NOT_ADMITTED,
        source="https://help.openai.com/en/articles/10910291-api-organization-verification",
    ),
    Rule(
        kind="invalid_request",
        what="the request alone is larger than the limit per minute: it never fits",
        providers="OpenAI, Groq, Azure",
        statuses=frozenset({400, 413, 429}),
        check=_exceeds_the_whole_limit,
        source="https://github.com/Aider-AI/aider/issues/1880",
    ),
    Rule(
        kind="content_filter",
        what="the content is refused",
        providers="OpenAI, Azure, OpenRouter, Alibaba, z.ai, MiniMax, Bedrock",
        codes=_values(
            "content_filter content_filter_error content_filtered contentfilter content_policy_violation"
            " content_policy responsibleaipolicyviolation data_inspection_failed datainspectionfailed"
            " moderation_blocked moderation_error content_moderation flagged_input safety_error"
            " guardrail_intervened guardrailintervened guardrail_violation cyber_policy_violation"
            " contentpolicyviolationerror"
            " 1301 base_resp.1026 base_resp.1027 prohibited_content sensitive_content"
        ),
        source="https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter",
    ),
    Rule(
        kind="billing_error",
        what="the account has no credit, or its budget is spent",
        providers="OpenAI, Moonshot, z.ai, opencode zen, LiteLLM, Alibaba, MiniMax",
        codes=_values(
            "insufficient_quota billing_hard_limit_reached billing_not_active insufficient_balance"
            " insufficient_credits insufficient_credit insufficient_funds insufficient_user_quota"
            " credits_exhausted creditserror credit_balance_too_low budget_exceeded budgetexceedederror"
            " exceeded_current_quota_error payment_required payment_required_error arrearage 1113"
            " usage_not_included monthlylimiterror userlimiterror subscription_required base_resp.1008"
            " billing_error spend_limit_exceeded no_payment_method prepaid_balance_exhausted"
            " pre_consume_token_quota_failed 1309 billing_disabled customer_verification_required"
            " insufficient_balance_error allocationquota.freetieronly"
        ),
        source="https://platform.openai.com/docs/guides/error-codes",
    ),
    Rule(
        kind="context_overflow",
        what="the prompt is longer than the model's context",
        providers="OpenAI, llama.cpp, Copilot, z.ai, LiteLLM, Anthropic",
        codes=_values(
            "context_length_exceeded exceed_context_size_error model_context_window_exceeded"
            " context_window_exceeded contextwindowexceedederror model_max_prompt_tokens_exceeded"
            " max_prompt_tokens_exceeded request_too_large prompt_too_long input_too_long"
            " tokens_limit_reached 1261"
        ),
        source="https://github.com/ggml-org/llama.cpp/pull/15780",
    ),
    Rule(
        kind="invalid_request",
        what="the model does not exist, or not any more",
        providers="OpenAI, Azure, Groq, z.ai, opencode zen, Copilot, Bedrock",
        codes=_values(
            "model_not_found modelnotfound modelnotfounderror model_not_available model_not_exist"
            " model_deprecated model_decommissioned deploymentnotfound deployment_not_found unknown_model"
            " invalid_model model_not_supported modelerror 1211 resourcenotfoundexception"
            " unsupported_model model_terms_required unavailable_model"
        ),
        concerns_all_rows=True,
        source="https://platform.openai.com/docs/guides/error-codes",
    ),
    Rule(
        kind="authentication_failed",
        what="the key, the login or the region is refused",
        providers="OpenAI, Google, Moonshot, AWS, z.ai, MiniMax",
        codes=_values(
            "invalid_api_key incorrect_api_key api_key_invalid api_key_expired api_key_missing"
            " invalid_authentication invalid_authentication_error unrecognizedclientexception"
            " invalidsignatureexception incompletesignatureexception expiredtokenexception expiredtoken"
            " accessdeniedexception"
            " account_deactivated unsupported_country_region_territory service_disabled"
            " api_key_service_blocked invalid_token token_expired expired_token invalid_grant"
            " invalid_x_api_key missing_api_key base_resp.1004 base_resp.2049 organization_deactivated"
            " api_key_revoked key_disabled invalid_iam_token 1311 1313 1314 1315"
            " organization_restricted access_terminated 1110 1111 1112 1120 1121"
        ),
        source="https://ai.google.dev/gemini-api/docs/troubleshooting",
    ),
    Rule(
        kind="rate_limit",
        what="a limit of requests or tokens is reached",
        providers="Anthropic, OpenAI, Codex, Moonshot, z.ai, AWS, opencode zen",
        codes=_values(
            "rate_limit_error rate_limit_reached_error rate_limited ratelimitreached too_many_requests"
            " throttlingexception throttling usage_limit_reached servicequotaexceededexception"
            " 1302 1303 1304 1308 1310 1316 1317 1318 1319 1320 1321"
            " freeusagelimiterror gousagelimiterror ratelimiterror"
            " base_resp.1002 base_resp.1039"
        ),
        source="https://docs.claude.com/en/api/errors",
    ),
    # 2. Values by their words, for providers whose values are not listed.
    Rule(
        kind="content_filter",
        what="the content is refused, by the words of a value",
        providers="Volcengine, Portkey, Helicone, gateways",
        code_words=FILTER_CODE,
        source="https://www.volcengine.com/docs/82379/1299023",
    ),
    Rule(
        kind="billing_error",
        what="the account has no credit, by the words of a value",
        providers="Novita, Volcengine, watsonx, gateways",
        code_words=SPENT_CODE,
        source="https://novita.ai/docs/api-reference/basic-error-code",
    ),
    Rule(
        kind="context_overflow",
        what="the prompt is longer than the model's context, by the words of a value",
        providers="gateways",
        code_words=TOO_LONG_CODE,
        source="https://docs.litellm.ai/docs/exception_mapping",
    ),
    Rule(
        kind="invalid_request",
        what="the model does not exist, or not any more, by the words of a value",
        providers="Volcengine, Novita, gateways",
        statuses=REFUSED | {410},
        code_words=MODEL_CODE,
        concerns_all_rows=True,
        source="https://www.volcengine.com/docs/82379/1299023",
    ),
    Rule(
        kind="authentication_failed",
        what="the key, the login or the account is refused, by the words of a value",
        providers="Novita, Cerebras, gateways",
        statuses=REFUSED | {429},
        code_words=BAD_KEY_CODE,
        source="https://novita.ai/docs/api-reference/basic-error-code",
    ),
    Rule(
        kind="invalid_request",
        what="an image of the request cannot be read, by the words of a value",
        providers="OpenAI",
        code_words=IMAGE_CODE,
        source="https://platform.openai.com/docs/api-reference/responses/object",
    ),
    Rule(
        kind="server_error",
        what="the provider has too many requests, by the words of a value",
        providers="Groq, gateways",
        code_words=BUSY_CODE,
        check=lambda answer: answer.status not in REFUSED | {429},
        is_overload=True,
        source="https://console.groq.com/docs/flex-processing",
    ),
    # 3. Words, under statuses that mean different things.
    Rule(
        kind="authentication_failed",
        what="a proxy or a firewall refuses the client, for example with a check for browsers",
        providers="Cloudflare, Zscaler, proxies",
        check=_is_of_firewall,
        note=NOT_THE_KEY,
        source="https://developers.cloudflare.com/cloudflare-challenges/challenge-types/challenge-pages/",
    ),
    Rule(
        kind="billing_error",
        what="a quota of nothing, which has no end: the plan does not include the model",
        providers="Google",
        codes=_values("resource_exhausted"),
        words=NO_QUOTA,
        may_end=False,
        source="https://github.com/ai-christianson/RA.Aid/issues/182",
    ),
    Rule(
        kind="billing_error",
        what="the credit or the spending limit of a Google project is used up",
        providers="Google",
        codes=_values("resource_exhausted"),
        words=SPENT_AT_GOOGLE,
        source="https://ai.google.dev/gemini-api/docs/billing",
    ),
    Rule(
        kind="rate_limit",
        what="a quota is reached; the message also names billing",
        providers="Google, OpenRouter, Groq, OpenAI",
        codes=_values("resource_exhausted rate_limit_exceeded"),
        source="https://ai.google.dev/gemini-api/docs/rate-limits",
    ),
    Rule(
        kind="rate_limit",
        what="a rate limit is reached; the message also offers credits",
        providers="OpenRouter",
        statuses=frozenset({429}),
        words=LIMITED_AT_START,
        source="https://openrouter.ai/docs/api-reference/limits",
    ),
    Rule(
        kind="content_filter",
        what="the content is refused",
        providers="Anthropic, Azure, DeepSeek, xAI, OpenRouter, gateways with guardrails",
        statuses=REFUSED | {200, 424, 451, 498, 500},
        words=FILTERED,
        source="https://docs.x.ai/docs/key-information/debugging",
    ),
    Rule(
        kind="billing_error",
        what="the account has no credit, or its spending limit is reached",
        providers="Anthropic, xAI, OpenRouter, z.ai, DeepSeek, LiteLLM",
        statuses=REFUSED | {402, 412, 429},
        words=SPENT,
        # A provider that names a wait means a limit that ends, whatever else its message says.
        check=lambda answer: answer.status != HTTPStatus.TOO_MANY_REQUESTS or not answer.names_wait,
        source="https://github.com/anthropics/claude-code/issues/38035",
    ),
    Rule(
        kind="context_overflow",
        what="the prompt is longer than the model's context",
        providers="Anthropic, vLLM, LM Studio, Groq, Gemini, Copilot, xAI, Bedrock",
        statuses=frozenset({400, 413, 422, 500}),
        words=TOO_LONG,
        source="https://github.com/microsoft/vscode/issues/293191",
    ),
    Rule(
        kind="authentication_failed",
        what="the key or the login is refused",
        providers="xAI, Gemini, gateways",
        statuses=frozenset({400, 401, 403, 422}),
        words=BAD_KEY,
        source="https://github.com/i-am-bee/beeai-framework/issues/447",
    ),
    Rule(
        kind="server_error",
        what="the model is away for a while, under statuses of refused requests",
        providers="gateways",
        statuses=frozenset({400, 404, 409, 410, 422}),
        words=AWAY,
        source="https://openrouter.ai/docs/api-reference/errors",
    ),
    Rule(
        kind="invalid_request",
        what="the model does not exist, or not any more",
        providers="Anthropic, Ollama, vLLM, OpenRouter, LiteLLM, gateways",
        statuses=REFUSED | {410},
        words=GONE,
        concerns_all_rows=True,
        source="https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
    ),
    Rule(
        kind="server_error",
        what="the server lost its model",
        providers="LM Studio, NVIDIA",
        statuses=frozenset({400}),
        words=LOST_MODEL,
        source="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/1347",
    ),
    Rule(
        kind="invalid_request",
        what="the model does not have a feature that the run asks for, such as tools",
        providers="Ollama, Azure",
        statuses=REFUSED,
        words=NO_FEATURE,
        concerns_all_rows=True,
        source="https://docs.ollama.com/capabilities/tool-calling",
    ),
    Rule(
        kind="invalid_request",
        what="a parameter that the model does not have, whatever the row",
        providers="OpenAI, Azure",
        statuses=frozenset({400}),
        codes=_values("unsupported_parameter"),
        concerns_all_rows=True,
        source="https://github.com/anomalyco/opencode/issues/37964",
    ),
    Rule(
        kind="invalid_request",
        what="the server cannot load the model",
        providers="LM Studio, LocalAI",
        statuses=REFUSED,
        words=NOT_LOADED,
        concerns_all_rows=True,
        source="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues",
    ),
    Rule(
        kind="invalid_request",
        what="the provider does not serve the region",
        providers="Gemini",
        statuses=frozenset({400}),
        words=REGION,
        concerns_all_rows=True,
        source="https://ai.google.dev/gemini-api/docs/available-regions",
    ),
    Rule(
        kind="rate_limit",
        what="a limit is reached, by the words of a value",
        providers="AWS, gateways",
        code_words=LIMIT_CODE,
        check=lambda answer: answer.status == HTTPStatus.BAD_REQUEST or _may_be_a_limit(answer.status),
        source="https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html",
    ),
    Rule(
        kind="rate_limit",
        what="a quota or a rate limit is reached, under the status of a refused key",
        providers="Tyk, Azure, GitHub",
        words=QUOTA_USED,
        statuses=frozenset({403}),
        source="https://tyk.io/docs/api-management/request-quotas/",
    ),
    Rule(
        kind="rate_limit",
        what="a rate limit is reached, under the status of a refused request",
        providers="gateways",
        words=LIMITED_AS_REFUSED,
        statuses=frozenset({400, 409, 422}),
        source="https://github.com/bbelderbos/codeimag.es/issues/7",
    ),
    Rule(
        kind="rate_limit",
        what="a limit, with the time of the next request in the headers",
        providers="GitHub",
        words=LIMITED_FOR_A_TIME,
        statuses=frozenset({403}),
        check=lambda answer: answer.names_wait,
        source="https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api",
    ),
    Rule(
        kind="authentication_failed",
        what="a proxy or the network requires a login, or the server a certificate of the client",
        providers="proxies",
        check=lambda answer: (
            answer.status in BEFORE_PROVIDER
            or (answer.status == HTTPStatus.BAD_REQUEST and answer.says(NO_CERTIFICATE))
        ),
        note="the proxy or network, not the provider, requires a login or a certificate",
        source="https://www.rfc-editor.org/rfc/rfc9110#section-15.5.8",
    ),
    Rule(
        kind="invalid_request",
        what="the address, the protocol or the host name is wrong",
        providers="web servers",
        statuses=frozenset({400}),
        words=WRONG_ADDRESS,
        concerns_all_rows=True,
        note=CHECK_ADDRESS,
        source="https://www.rfc-editor.org/rfc/rfc9110#section-7.2",
    ),
    Rule(
        kind="invalid_request",
        what="a redirection, or a method or protocol that the address does not take",
        providers="web servers",
        check=_is_about_address,
        concerns_all_rows=True,
        note=CHECK_ADDRESS,
        source="https://www.rfc-editor.org/rfc/rfc9110#section-15.5.6",
    ),
    # 4. Errors inside a stream without a status.
    Rule(
        kind="server_error",
        what="an HTML page in place of an answer",
        providers="proxies",
        statuses=frozenset(),
        check=lambda answer: answer.failure.in_stream and _is_html(answer),
        source="https://developer.mozilla.org/docs/Web/HTTP/Status/502",
    ),
    Rule(
        kind="authentication_failed",
        what="the key or the login is refused",
        providers="Anthropic, OpenAI, Google",
        codes=_values("authentication_error unauthenticated unauthorized permission_denied permission_error"),
        source="https://docs.claude.com/en/api/errors",
    ),
    Rule(
        kind="server_error",
        what="the provider has too many requests",
        providers="Anthropic, OpenAI, Moonshot, Google, AWS",
        codes=_values(
            "overloaded_error engine_overloaded_error server_overloaded server_is_overloaded overloaded"
            " engine_overloaded slow_down 1305"
        ),
        is_overload=True,
        source="https://docs.claude.com/en/api/errors",
    ),
    Rule(
        kind="server_error",
        what="the provider failed",
        providers="Anthropic, OpenAI, Google, AWS",
        codes=_values(
            "api_error server_error internal_error internal_server_error internalserverexception"
            " serviceunavailableexception modelnotreadyexception modeltimeoutexception"
            " modelstreamerrorexception provider_unavailable bad_gateway unavailable_error"
        ),
        check=lambda answer: _in_stream(answer) or _is_server_fault(answer),
        source="https://docs.claude.com/en/api/errors",
    ),
    Rule(
        kind="content_filter",
        what="the content is refused inside a stream",
        providers="Anthropic, OpenRouter, gateways",
        words=FILTERED,
        check=_in_stream,
        source="https://docs.claude.com/en/api/errors",
    ),
    Rule(
        kind="context_overflow",
        what="the prompt is longer than the model's context, said inside a stream",
        providers="llama.cpp, vLLM, LM Studio",
        words=TOO_LONG,
        check=lambda answer: _in_stream(answer) and answer.status != HTTPStatus.TOO_MANY_REQUESTS,
        source="https://github.com/oobabooga/textgen/issues/7257",
    ),
    Rule(
        kind="billing_error",
        what="the account has no credit, said inside a stream",
        providers="OpenRouter",
        words=SPENT,
        check=lambda answer: _in_stream(answer) and not _is_server_fault(answer),
        source="https://openrouter.ai/docs/api-reference/errors",
    ),
    Rule(
        kind="authentication_failed",
        what="the key is refused inside a stream",
        providers="gateways",
        words=BAD_KEY,
        check=lambda answer: _in_stream(answer) and answer.status is None,
        source="https://openrouter.ai/docs/api-reference/errors",
    ),
    Rule(
        kind="rate_limit",
        what="a limit is reached, said inside a stream",
        providers="gateways",
        words=LIMITED,
        check=lambda answer: _in_stream(answer) and _may_be_a_limit(answer.status),
        source="https://github.com/vercel/ai/issues/13506",
    ),
    # 5. The HTTP status, or the one that an error inside a stream names.
    Rule(
        kind="authentication_failed",
        what="the key or the login is refused",
        providers="any",
        statuses=frozenset({401, 403}),
        source="https://www.rfc-editor.org/rfc/rfc9110#section-15.5.2",
    ),
    Rule(
        kind="billing_error",
        what="payment is required",
        providers="any",
        statuses=frozenset({402}),
        source="https://www.rfc-editor.org/rfc/rfc9110#section-15.5.3",
    ),
    Rule(
        kind="content_filter",
        what="a guardrail refused the request",
        providers="Portkey",
        statuses=frozenset({446}),
        source="https://portkey.ai/docs/api-reference/inference-api/error-codes",
    ),
    Rule(
        kind="context_overflow",
        what="the request is too large",
        providers="any",
        statuses=frozenset({413}),
        source="https://www.rfc-editor.org/rfc/rfc9110#section-15.5.14",
    ),
    Rule(
        kind="rate_limit",
        what="too many requests, under a status that HTTP does not define",
        providers="gateways",
        statuses=frozenset({420}),
        source="https://github.com/treeverse/lakeFS/pull/6711",
    ),
    Rule(
        kind="rate_limit",
        what="too many requests",
        providers="any",
        statuses=frozenset({429}),
        source="https://www.rfc-editor.org/rfc/rfc6585#section-4",
    ),
    Rule(
        kind="server_error",
        what="the provider has too many requests",
        providers="any",
        statuses=frozenset({503, 529}),
        words=BUSY,
        is_overload=True,
        source="https://docs.claude.com/en/api/errors",
    ),
    Rule(
        kind="server_error",
        what="the provider has too many requests",
        providers="Anthropic",
        statuses=frozenset({529}),
        is_overload=True,
        source="https://docs.claude.com/en/api/errors",
    ),
    Rule(
        kind="server_error",
        what="the connection failed, the request timed out or was in conflict, or the provider failed",
        providers="any",
        check=lambda answer: answer.status in BROKEN or _is_server_fault(answer),
        source="https://www.rfc-editor.org/rfc/rfc9110#section-15.6",
    ),
    Rule(
        kind="invalid_request",
        what="nothing answers at this address",
        providers="any",
        statuses=frozenset({404, 410}),
        check=lambda answer: not answer.says(ONE_ROW),
        concerns_all_rows=True,
        source="https://www.rfc-editor.org/rfc/rfc9110#section-15.5.5",
    ),
    Rule(
        kind="invalid_request",
        what="the request is refused",
        providers="any",
        check=lambda answer: answer.status is not None and answer.status >= HTTPStatus.BAD_REQUEST,
        source="https://www.rfc-editor.org/rfc/rfc9110#section-15.5",
    ),
    Rule(
        kind="invalid_request",
        what="the request is refused inside a stream",
        providers="Anthropic, OpenAI, AWS",
        codes=_values(
            "invalid_request_error validationexception invalid_argument badrequesterror invalid_prompt"
            " not_found_error"
        ),
        check=_in_stream,
        source="https://docs.claude.com/en/api/errors",
    ),
    Rule(
        kind="server_error",
        what="the stream failed for another reason",
        providers="any",
        check=_in_stream,
        source="https://html.spec.whatwg.org/multipage/server-sent-events.html",
    ),
)
