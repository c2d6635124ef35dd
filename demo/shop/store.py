"""The shop's database: products, users, orders; PostgreSQL, or SQLite where there is none.

In:  the URL of `places.database`.
Out: an engine, the tables, and what they hold at the start.
"""

import random
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    Column,
    DateTime,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    func,
    insert,
    select,
    text,
)

from demo.shop import places

PRODUCTS, PAST_ORDERS, USERS = 400, 400_000, 2_000
CATEGORIES = ("books", "garden", "kitchen", "music", "sport", "toys")
SEED = 7

metadata = MetaData()
products = Table(
    "products",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(80), nullable=False),
    Column("category", String(20), nullable=False),
    Column("price_eur", Float, nullable=False),
    Column("stock", Integer, nullable=False),
)
users = Table(
    "users",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("organization", String(20), nullable=False),
    Column("since", DateTime, nullable=False),
)
orders = Table(
    "orders",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("user_id", String(40), nullable=False),
    Column("total_eur", Float, nullable=False),
    Column("state", String(12), nullable=False),
    Column("at", DateTime, nullable=False),
)
orders_by_user = Index("orders_by_user", orders.c.user_id)
# Made by the database: so many that a search without the index of orders by user takes long.
past_orders = text("""
insert into orders (user_id, total_eur, state, at)
with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < :last)
select 'user-' || (n % :users), 5 + n * 37 % 97 + 0.99, 'done', :now
from numbers
""").bindparams(bindparam("now", type_=DateTime))


def engine() -> Engine:
    """Connect to the shop's database; each process has its own pool."""
    place = places.database()
    if place.startswith("sqlite"):
        return create_engine(place, connect_args={"timeout": 5.0})
    return create_engine(place, pool_size=8, max_overflow=8, pool_pre_ping=False)


def fill() -> None:
    """Make the tables and what they hold at the start, unless they are there."""
    draw = random.Random(SEED)
    made = engine()
    metadata.create_all(made)
    with made.begin() as con:
        if con.execute(select(func.count()).select_from(products)).scalar_one():
            return
        con.execute(
            insert(products),
            [
                {
                    "id": number,
                    "name": f"{draw.choice(CATEGORIES)} article {number}",
                    "category": CATEGORIES[number % len(CATEGORIES)],
                    "price_eur": round(draw.lognormvariate(3.0, 0.6), 2),
                    "stock": 1_000_000,
                }
                for number in range(1, PRODUCTS + 1)
            ],
        )
        now = datetime.now(UTC).replace(tzinfo=None)
        con.execute(
            insert(users),
            [
                {
                    "id": f"user-{number}",
                    "organization": f"org-{number % 12:02d}",
                    "since": now - timedelta(days=draw.randrange(1, 900)),
                }
                for number in range(USERS)
            ],
        )
        con.execute(past_orders, {"last": PAST_ORDERS, "users": USERS, "now": now})
    made.dispose()
