"""The district that the cases start with: OneRoster 1.1 CSV, with the standard's own headers."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tests import oneroster_files

ORGS = """\
sourcedId,status,dateLastModified,name,type,identifier,parentSourcedId
d-1,,,Lake District,district,D1,
sch-1,,,Mill School,school,301,d-1
"""
SESSIONS = """\
sourcedId,status,dateLastModified,title,type,startDate,endDate,parentSourcedId,schoolYear
y-2027,,,2026-27,schoolYear,2026-08-01,2027-07-31,,2027
t-f,,,Fall,term,2026-08-24,2026-12-18,y-2027,2027
"""
COURSES = """\
sourcedId,status,dateLastModified,schoolYearSourcedId,title,courseCode,grades,orgSourcedId,subjects,subjectCodes
co-1,,,y-2027,Algebra 1,ALG1,09,sch-1,Math,
co-2,,,y-2027,Biology,BIO,09,sch-1,Science,
"""
CLASSES = """\
sourcedId,status,dateLastModified,title,grades,courseSourcedId,classCode,classType,location,schoolSourcedId,termSourcedIds,subjects,subjectCodes,periods
cl-1,,,Algebra 1 P2,09,co-1,ALG1-2,scheduled,,sch-1,t-f,,,2
cl-2,,,Biology P3,09,co-2,BIO-3,scheduled,,sch-1,t-f,,,3
"""
USERS = """\
sourcedId,status,dateLastModified,enabledUser,orgSourcedIds,role,username,userIds,givenName,familyName,middleName,identifier,email,sms,phone,agentSourcedIds,grades,password
t-1,,,true,sch-1,teacher,tkuusk,,Tiina,Kuusk,,T1,tkuusk@example.test,,,,,
u-1,,,true,sch-1,student,mtamm,,Mari,Tamm,,S1,mtamm@example.test,,,,09,
u-2,,,true,sch-1,student,jlepik,,Jaan,Lepik,,S2,jlepik@example.test,,,,09,
"""
ENROLLMENTS = """\
sourcedId,status,dateLastModified,classSourcedId,schoolSourcedId,userSourcedId,role,primary,beginDate,endDate
e-1,,,cl-1,sch-1,u-1,student,false,,
e-2,,,cl-1,sch-1,u-2,student,false,,
e-t,,,cl-1,sch-1,t-1,teacher,true,,
"""

FILES = {
    "orgs": ORGS,
    "academicSessions": SESSIONS,
    "courses": COURSES,
    "classes": CLASSES,
    "users": USERS,
    "enrollments": ENROLLMENTS,
}
"""The text of each file by its name without .csv."""


def manifest(absent: Collection[str] = ()) -> str:
    """Return a manifest that declares each file of the district as bulk, except these absent ones."""
    modes = {name: "absent" if name in absent else "bulk" for name in FILES}
    lines = ["propertyName,value", "manifest.version,1.0", "oneroster.version,1.1"]
    return "".join(f"{line}\n" for line in [*lines, *(f"file.{n},{m}" for n, m in modes.items())])


def write(folder: Path, absent: Collection[str] = (), **instead: str) -> Path:
    """Write the district's extract into a folder.

    absent:  files that do not exist, as the manifest says.
    instead: other texts of files: `users=USERS.replace(…)`. "" leaves the file out, whatever the
             manifest says.
    """
    files = {name: text for name, text in FILES.items() if name not in absent}
    return oneroster_files.extract(folder, **({"manifest": manifest(absent)} | files | instead))
