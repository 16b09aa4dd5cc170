"""The source `oneroster-csv` passes the contract suite, with a folder and with a zip."""

from __future__ import annotations

import zipfile
from pathlib import Path

from bus.contract import SourceContract
from producers.oneroster_csv import SOURCE
from tests.oneroster_files import ORGS, SESSIONS, USERS
from tests.oneroster_files import extract as write

ALL = {
    "orgs": ORGS,
    "academicSessions": SESSIONS,
    "courses": "sourcedId,title,courseCode,orgSourcedId\nc1,Geometry,MAT,d1\n",
    "classes": (
        "sourcedId,title,courseSourcedId,classType,schoolSourcedId,termSourcedIds\n"
        'k1,"Geometry, 1st",c1,scheduled,s1,y1\n'
    ),
    "users": USERS.replace("Ada,", "Zebulon Marker,"),
    "demographics": "sourcedId,birthDate,sex\nu1,2012-12-10,female\n",
    "enrollments": (
        "sourcedId,classSourcedId,schoolSourcedId,userSourcedId,role,primary\n"
        "e1,k1,s1,u1,student,false\ne2,k1,s1,u2,teacher,true\n"
    ),
    "lineItems": (
        "sourcedId,title,assignDate,dueDate,classSourcedId,categorySourcedId,resultValueMin,"
        'resultValueMax\nl1,"Proofs\nquiz",2026-09-01,2026-09-04,k1,q1,0,20\n'
    ),
    "results": (
        "sourcedId,lineItemSourcedId,studentSourcedId,scoreStatus,score,scoreDate\n"
        "r1,l1,u1,fully graded,17,2026-09-05\n"
    ),
    "optOuts": (
        "sourcedId,studentSourcedId,scope,vendor,decidedBy,beginDate\n"
        "o1,u1,directoryInformation,,parent,2026-09-01\no2,u1,vendor,Acme,parent,\n"
    ),
    "attendance": (
        "sourcedId,studentSourcedId,schoolSourcedId,eventDate,attendanceEventCategory\n"
        "a1,u1,s1,2026-09-05,tardy\n"
    ),
}


class TestFolder(SourceContract):
    """An extract as a folder of files."""

    source = SOURCE
    marker = "Zebulon Marker"

    def extract(self, folder: Path) -> Path:
        """Write a small district with every file that is read."""
        return write(folder / "extract", **ALL)


class TestZip(TestFolder):
    """The same extract as a zip in which the files are in a folder."""

    def extract(self, folder: Path) -> Path:
        """Write the extract as one zip."""
        files = write(folder / "files", **ALL)
        path = folder / "extract.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(files.iterdir()):
                archive.write(file, f"export/{file.name}")
        return path
