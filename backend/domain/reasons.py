"""Why something was not done: one enum, stored with every decision and shown to the user with the next step."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a symbol was not entered or an order was not sent."""

    # about the market or the prediction, the same for every user of a mode
    MARKET_NOT_CONTINUOUS = "market_not_continuous"
    NO_PREDICTION = "no_prediction"
    MODEL_ABSTAINED = "model_abstained"
    MODE_NOT_CERTIFIED = "mode_not_certified"
    NOT_A_BUY = "not_a_buy"
    PREDICTION_EXPIRED = "prediction_expired"
    CONFIDENCE_BELOW_MODE = "confidence_below_mode"
    RETURN_BELOW_MODE = "return_below_mode"
    LOWER_BOUND_NOT_POSITIVE = "lower_bound_not_positive"
    NO_QUOTE = "no_quote"
    QUOTE_STALE = "quote_stale"
    QUOTE_UNUSABLE = "quote_unusable"
    PRICE_MOVED = "price_moved"
    # about the user
    AUTO_TRADING_DISABLED = "auto_trading_disabled"
    SYMBOL_NOT_SELECTED = "symbol_not_selected"
    STRATEGY_NOT_ENABLED = "strategy_not_enabled"
    BROKER_UNAVAILABLE = "broker_unavailable"
    BROKER_LOGIN_NEEDED = "broker_login_needed"
    BROKER_NOT_RECONCILED = "broker_not_reconciled"
    PLAN_LIMIT = "plan_limit"
    PLAN_SYMBOLS = "plan_symbols"
    OWN_DAY_LIMIT = "own_day_limit"
    CLUSTER_FULL = "cluster_full"
    ALREADY_HELD = "already_held"
    ORDER_OPEN = "order_open"
    ORDER_UNKNOWN = "order_unknown"
    EXITED_TODAY = "exited_today"
    ENTRY_FAILED_TODAY = "entry_failed_today"
    FUNDS_IN_USE_LIMIT = "funds_in_use_limit"
    BUDGET_BELOW_ONE_SHARE = "budget_below_one_share"
    EDGE_BELOW_CHARGES = "edge_below_charges"
    NO_INTRADAY_MODEL = "no_intraday_model"
    INTRADAY_ONLY = "intraday_only"
    TOO_LATE_FOR_INTRADAY = "too_late_for_intraday"
    # corporate actions
    ACTIONS_UNKNOWN = "actions_unknown"
    ACTION_PENDING = "action_pending"
    ACTION_TODAY = "action_today"
    # protections
    COOLDOWN = "cooldown"
    STOPLOSS_GUARD = "stoploss_guard"
    MAX_DRAWDOWN = "max_drawdown"
    LOW_PROFIT_SYMBOL = "low_profit_symbol"
    # the gate
    OUTSIDE_PRICE_BAND = "outside_price_band"
    OUTSIDE_COLLAR = "outside_collar"
    TRIGGER_PASSED = "trigger_passed"
    NOT_ON_TICK = "not_on_tick"
    QUANTITY_INVALID = "quantity_invalid"
    ABOVE_FREEZE_QUANTITY = "above_freeze_quantity"
    ORDER_VALUE_LIMIT = "order_value_limit"
    SELL_EXCEEDS_HOLDING = "sell_exceeds_holding"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    # the gate before the socket
    TRADING_HALTED = "trading_halted"
    TRADING_REDUCING = "trading_reducing"
    OPEN_VALUE_LIMIT = "open_value_limit"
    OWN_OPPOSITE_ORDER = "own_opposite_order"
    ORDERS_PER_SECOND = "orders_per_second"
    ORDERS_PER_MINUTE = "orders_per_minute"
    ORDERS_PER_DAY = "orders_per_day"
    SYMBOL_ORDER_RATE = "symbol_order_rate"
    REJECTIONS_RUNNING = "rejections_running"
    ORDERS_EXCEED_INTENTS = "orders_exceed_intents"
    LIVE_SWITCH_OFF = "live_switch_off"


NEXT_STEP: dict[Reason, str] = {
    Reason.MARKET_NOT_CONTINUOUS: "Orders go out in the continuous session only; market status shows the next one.",
    Reason.NO_PREDICTION: "The prediction service did not answer for this symbol; it is asked again on the next cycle.",
    Reason.MODEL_ABSTAINED: "The model has no evidence for this symbol now; see the prediction's reasons.",
    Reason.MODE_NOT_CERTIFIED: "The strategy's record does not carry your mode now; the status says why, another may.",
    Reason.NOT_A_BUY: "The model sees no gain after charges; nothing to do.",
    Reason.PREDICTION_EXPIRED: "The prediction is no longer valid; it is asked for again on the next cycle.",
    Reason.CONFIDENCE_BELOW_MODE: "The probability is below what your mode asks; a bolder mode asks less.",
    Reason.RETURN_BELOW_MODE: "The expected net return is below what your mode asks; a bolder mode asks less.",
    Reason.LOWER_BOUND_NOT_POSITIVE: "The expected return is not distinguishable from zero.",
    Reason.NO_QUOTE: "No quote for this symbol now; it is asked again on the next cycle.",
    Reason.QUOTE_STALE: "The newest quote is too old to trade on.",
    Reason.QUOTE_UNUSABLE: "The quote is zero, crossed or outside its own band.",
    Reason.PRICE_MOVED: "The price has left the level the prediction was made at.",
    Reason.AUTO_TRADING_DISABLED: "Enable it with POST /v1/auto-trading/enable.",
    Reason.SYMBOL_NOT_SELECTED: "Add the symbol with PUT /v1/auto-trading/settings.",
    Reason.BROKER_UNAVAILABLE: "The broker account did not answer; check it under broker accounts.",
    Reason.BROKER_LOGIN_NEEDED: "Log in at the broker for today (POST /v1/broker-accounts/{id}/login).",
    Reason.BROKER_NOT_RECONCILED: "The broker's book has not been read since the login: that takes a minute at most.",
    Reason.STRATEGY_NOT_ENABLED: "A strategy you have not enabled proposes it; add it in the settings' strategies.",
    Reason.PLAN_LIMIT: "Today's auto-trades of your plan are used up; they return at midnight IST, or upgrade.",
    Reason.PLAN_SYMBOLS: "Your plan trades fewer symbols than your settings name: the first count. Upgrade or reorder.",
    Reason.OWN_DAY_LIMIT: "Your own daily limit is reached; change entries_per_day_max in the settings.",
    Reason.CLUSTER_FULL: "You hold as many shares that move together with this one as the platform allows.",
    Reason.ALREADY_HELD: "A trade in this symbol is open already.",
    Reason.ORDER_OPEN: "An order in this symbol is still open.",
    Reason.ORDER_UNKNOWN: "An order's outcome is unknown; the symbol is blocked until the broker's book settles it.",
    Reason.EXITED_TODAY: "This symbol was left today; it may be entered again tomorrow.",
    Reason.ENTRY_FAILED_TODAY: "An entry in this symbol failed today; it may be tried again tomorrow.",
    Reason.FUNDS_IN_USE_LIMIT: "80 % of the funds are in use; exits free them.",
    Reason.BUDGET_BELOW_ONE_SHARE: "The budget per trade is less than one share; add funds.",
    Reason.EDGE_BELOW_CHARGES: "At this size the charges eat the expected return; add funds.",
    Reason.NO_INTRADAY_MODEL: "The predictions span several sessions; an intraday trade needs a one-session model.",
    Reason.INTRADAY_ONLY: "The prediction is of a trade that ends today; choose the intraday product to take it.",
    Reason.TOO_LATE_FOR_INTRADAY: "Intraday entries stop before the square-off; use delivery or wait for tomorrow.",
    Reason.ACTIONS_UNKNOWN: "Today's corporate actions are not known yet: prices and holdings may not go together.",
    Reason.ACTION_PENDING: "A corporate action is not booked yet; orders in this symbol wait until it is.",
    Reason.ACTION_TODAY: "A corporate action changed this share today in a way no price can be compared; try tomorrow.",
    Reason.COOLDOWN: "This symbol was stopped a short while ago; the status shows when it may be entered again.",
    Reason.STOPLOSS_GUARD: "Several trades were stopped within days; the status shows when entries go on.",
    Reason.MAX_DRAWDOWN: "The closed trades lost more than you allow; the status shows when entries go on.",
    Reason.LOW_PROFIT_SYMBOL: "This symbol's trades lost too much; the status shows when it may be entered again.",
    Reason.OUTSIDE_PRICE_BAND: "The limit price lies outside the exchange's band.",
    Reason.OUTSIDE_COLLAR: "The limit price is too far from the market.",
    Reason.TRIGGER_PASSED: "The stop has been passed already, or cannot wait where it is; the next tick decides.",
    Reason.NOT_ON_TICK: "The limit price is not a multiple of the tick.",
    Reason.QUANTITY_INVALID: "The quantity is not a positive multiple of the lot.",
    Reason.ABOVE_FREEZE_QUANTITY: "The exchange freezes orders of this size.",
    Reason.ORDER_VALUE_LIMIT: "The order's value is above the platform's limit.",
    Reason.SELL_EXCEEDS_HOLDING: "More would be sold than is held.",
    Reason.INSUFFICIENT_FUNDS: "There is not enough free cash.",
    Reason.TRADING_HALTED: "Trading is halted: see GET /v1/trading-state for why and who can lift it.",
    Reason.TRADING_REDUCING: "Only exits are sent now: see GET /v1/trading-state for why and who can lift it.",
    Reason.OPEN_VALUE_LIMIT: "Positions and open orders together would pass the platform's limit for one account.",
    Reason.OWN_OPPOSITE_ORDER: "An order of yours on the other side is open: the two would trade with each other.",
    Reason.ORDERS_PER_SECOND: "Too many orders in this second; it is tried again on the next cycle.",
    Reason.ORDERS_PER_MINUTE: "Too many orders in this minute; it is tried again on the next cycle.",
    Reason.ORDERS_PER_DAY: "The broker's orders of the day are used up; they return tomorrow.",
    Reason.SYMBOL_ORDER_RATE: "More orders in one symbol than any strategy needs: halted for a person to look.",
    Reason.REJECTIONS_RUNNING: "The broker refused several orders in a row: trading was halted for a person to look.",
    Reason.ORDERS_EXCEED_INTENTS: "More orders at the broker than Sauda recorded: halted for a person to look.",
    Reason.LIVE_SWITCH_OFF: "Real orders need the deployment's, the plan's and compliance's, and your own switch.",
}
"""What the user can do about each reason, in one sentence."""
